"""Reading config files, and one clear line about one that cannot be read."""

import copy
import difflib
import importlib.util
import pkgutil
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE, ConfigParsingError
from mmengine.registry import DefaultScope
from torch import nn

from kd_mm.registry import MODELS
from kd_mm.utils.suggest import nearest, nearest_file


def is_distillation(config: Config) -> bool:
    """Return whether a config's model is a Distiller."""
    return str(config.model.get("type")).endswith("Distiller")


def load_config(path: str) -> Config:
    """Read an mm config, with ``package::path`` as well as plain paths.

    Raises:
        FileNotFoundError: No such config, or no such base; the message names the nearest file.
        ValueError: The config, or a base of it, is not understood.
    """
    file = packaged(path) if "::" in path else Path(path).expanduser()
    if file.is_dir():
        raise FileNotFoundError(f"config {path!r} is a folder; name a file in it")
    if not file.is_file():
        raise FileNotFoundError(f"config {path!r} does not exist{nearest_file(file)}")
    if file.suffix not in (".py", ".yml", ".yaml", ".json"):
        raise ValueError(f"config {path!r} is no config but a {file.suffix or 'text'} file: give a .py file")
    try:
        config = Config.fromfile(file, import_custom_modules=False)
    except FileNotFoundError as error:
        # The engine's own message is: file "PATH" does not exist
        named = re.match(r'file "(.+)" does not exist', str(error))
        missing = Path(error.filename or (named[1] if named else str(error)))
        raise FileNotFoundError(f"config {path!r}: its base {missing} does not exist{nearest_file(missing)}") from error
    except KeyError as error:
        if len(str(error.args[0]).split()) > 1:
            raise ValueError(f"config {path!r}: {error.args[0]}") from error
        raise ValueError(
            f"config {path!r} asks for {{{{_base_.{error.args[0]}}}}}, which none of its bases defines"
        ) from error
    except ConfigParsingError as error:  # a config that imports is read in another way, which takes no other base
        if named := re.match("(.+) not found! ", str(error)):
            hint = nearest_file(Path(named[1]))
            raise FileNotFoundError(f"config {path!r}: its base {named[1]} does not exist{hint}") from error
        fault = "imports modules and has a base of text" if "chain must match" in str(error) else "cannot be read"
        raise ValueError(f"config {path!r} {fault}: {error}") from error
    except SyntaxError as error:
        raise ValueError(f"config {path!r} is no Python: {error.msg} (line {error.lineno})") from error
    except (NameError, AttributeError, TypeError, ImportError) as error:
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        raise ValueError(f"config {path!r} cannot be read: {error} (line {line})") from error
    import_custom_modules(config, file.absolute().parent)
    return config


def import_custom_modules(config: Config, folder: Path | None = None) -> None:
    """Import what the ``custom_imports`` of a config name.

    Args:
        config: Any.
        folder: Where a module may be that is not found.

    Raises:
        ValueError: A module is not found, or fails; the message names it, and where it is.
    """
    wanted = config.get("custom_imports") or {}
    names = wanted.get("imports") or []
    for name in [names] if isinstance(names, str) else names:
        try:
            importlib.import_module(name)
        except Exception as error:
            if wanted.get("allow_failed_imports") and isinstance(error, ImportError):
                continue
            top = name.partition(".")[0]
            if isinstance(error, ModuleNotFoundError) and error.name == top:
                raise ValueError(f"custom_imports: no module {top!r}{_where(top, folder)}") from error
            raise ValueError(f"custom_imports: {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def _where(module: str, folder: Path | None) -> str:
    folders = [Path.cwd(), *([folder] if folder else [])]
    for each in folders:
        if (each / f"{module}.py").is_file() or (each / module / "__init__.py").is_file():
            return f"; it is in {each}, which Python does not search: put PYTHONPATH={each} before the command"
    names = [found.name for found in pkgutil.iter_modules(map(str, folders))]
    near = difflib.get_close_matches(module, names, n=1)
    return f", did you mean {near[0]!r}?" if near else "; put PYTHONPATH=FOLDER_OF_THE_MODULE before the command"


def packaged(path: str) -> Path:
    """Return the file that ``package::path`` means.

    Raises:
        ValueError: A package that ships no configs, or is not installed.
    """
    package, _, name = path.partition("::")
    if package not in MODULE2PACKAGE:
        raise ValueError(f"config {path!r}: no package {package!r} with configs{nearest(package, MODULE2PACKAGE)}")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(f"config {path!r}: package {package!r} is not installed")
    return Path(spec.origin).parent / ".mim" / "configs" / name


def plain_model_config(config: str | dict[str, Any]) -> tuple[ConfigDict, str | None]:
    """Return the plain model config, of a distillation the student's, and the default scope of a config.

    Args:
        config: Path of an mm config, a config object, or a model config.

    Raises:
        ValueError: The config has no model.
    """
    source: Any = load_config(config) if isinstance(config, str) else config
    scope = source.get("default_scope")
    model = source if "type" in source else source.get("model")
    if model is None:
        name = f"config {config!r}" if isinstance(config, str) else "the teacher's config"
        raise ValueError(f"{name} has no 'model'; give an mm config file or a model dict")
    model = ConfigDict(copy.deepcopy(model))
    if str(model.get("type", "")).endswith("Distiller"):
        model = ConfigDict(model["student"])
    if "data_preprocessor" not in model and source.get("data_preprocessor"):
        model["data_preprocessor"] = source["data_preprocessor"]
    return model, scope


def build_network(config: str | dict[str, Any]) -> nn.Module:
    """Return the plain network of a config (see :func:`plain_model_config`) with its initial weights."""
    model, scope = plain_model_config(config)
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(model)


def parts_of(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value inside a part of a config with its dotted key, each before the values inside of it."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(config, Mapping):
        items = config.items()
    elif isinstance(config, list | tuple):
        items = enumerate(config)
    for name, value in items:
        path = f"{key}.{name}" if key else str(name)
        yield path, value
        yield from parts_of(value, path)


def innermost_dataset(config: Any) -> Any:
    """Return the config of the data set inside its wrappers, the first one that has a pipeline."""
    while "dataset" in config and "pipeline" not in config:
        config = config["dataset"]
    return config
