"""Reading config files, and one clear line about one that cannot be read."""

import copy
import difflib
import importlib.util
import inspect
import operator
import os
import pkgutil
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import registry as engine
from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DefaultScope
from torch import nn

from kd_mm.registry import MODELS
from kd_mm.utils.suggest import describe_error, nearest, nearest_file


def is_distillation(config: Config) -> bool:
    """Return whether a config's model is a Distiller.

    Raises:
        ValueError: The config has no model.
    """
    if "model" not in config:
        raise ValueError("config: there is no model")
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
    except Exception as error:  # its Python may raise anything
        raise _unreadable(f"config {path!r}", file, error) from error
    import_custom_modules(config, file.absolute().parent)
    for name, value in list(config.items()):
        if inspect.isclass(value) or inspect.isroutine(value):  # imported for its own use; it cannot be written
            del config._cfg_dict[name]
    _as_written(config._cfg_dict)
    return config


def _as_written(value: Any) -> Any:
    """Return a value in the form in which a config is written to a work dir: a path as text, an array as numbers."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        items = [_as_written(item) for item in value]
        return value if all(map(operator.is_, items, value)) else type(value)(items)
    if isinstance(value, dict):
        for name, part in list(value.items()):
            if (written := _as_written(part)) is not part:
                value[name] = written
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _unreadable(config: str, file: Path, error: Exception) -> Exception:
    """Return the error to raise instead of one that stopped the engine from reading a config: one line."""
    what = " ".join(describe_error(error).split())
    if isinstance(error, SyntaxError):
        return ValueError(f"{config} is no Python: {error.msg} (line {error.lineno})")
    if own := [step for step in traceback.extract_tb(error.__traceback__) if step.name == "<module>"]:
        where = "" if Path(own[-1].filename) == file.absolute() else f"{own[-1].filename}, "
        hint = (
            "; {{_base_.NAME}} is text there: write _base_.NAME"
            if re.search("'str' object|string indices", what)
            else ""
        )
        return ValueError(f"{config} cannot be read: {what} ({where}line {own[-1].lineno}){hint}")
    # The engine's own messages.
    if named := re.match(r'(?:file ")?(.+?)"? does not exist|(.+) not found! ', what):
        missing = Path(named[1] or named[2])
        return FileNotFoundError(f"{config}: its base {missing} does not exist{nearest_file(missing)}")
    if named := re.search(r"installed path for (\S+)\.|^(\S+) is not installed", what):
        return ValueError(f"{config}: its base is of the package {named[1] or named[2]!r}, which is not installed")
    if isinstance(error, KeyError) and what.startswith("KeyError: "):
        return ValueError(f"{config} asks for {{{{_base_.{error.args[0]}}}}}, which none of its bases defines")
    if "_get_package_and_cfg_path" in what:
        return ValueError(f"{config}: write a base of a package as 'package::folder/file.py'")
    if named := re.search(r"Duplicate key is not allowed among bases.*{(.*)}", what):
        return ValueError(f"{config}: several of its bases set {named[1]}: let one of them inherit from the other")
    if "cannot pickle" in what:
        return ValueError(f"{config}: a variable of it is no value ({what}): end the config with del NAME of it")
    if isinstance(error, RecursionError):
        return ValueError(f"{config}: one of its bases inherits from itself")
    # A config that imports is read in another way, which takes no other base.
    fault = "imports modules and has a base of text" if "chain must match" in what else "cannot be read"
    return ValueError(f"{config} {fault}: {what}")


def import_custom_modules(config: Config, folder: Path | None = None) -> None:
    """Import what the ``custom_imports`` of a config name.

    Args:
        config: Any.
        folder: Where a module may be that is not found.

    Raises:
        ValueError: A module is not found, or fails; the message names it, and where it is.
    """
    wanted = config.get("custom_imports") or {}
    if not isinstance(wanted, Mapping):
        raise ValueError(f"custom_imports: {wanted!r} is no dict: write custom_imports=dict(imports=[...])")
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
        path = config.filename if isinstance(config, Config) else config if isinstance(config, str) else None
        name = f"config {path!r}" if path else "the teacher's config"
        raise ValueError(f"{name} has no 'model'; give an mm config file or a model dict")
    model = ConfigDict(copy.deepcopy(model))
    set_scopes(model)
    if str(model.get("type", "")).endswith("Distiller"):
        model = ConfigDict(model["student"])
    if "data_preprocessor" not in model and source.get("data_preprocessor"):
        model["data_preprocessor"] = source["data_preprocessor"]
    return model, scope


def set_scopes(config: Any) -> None:
    """Let components of upstream that were inherited through ``kd_mm::`` build their parts in their own package.

    The engine marks them with the scope kd_mm, in which neither the default parts of mmpretrain's and mmdet's are found
    nor networks that users register there.
    """
    for _, part in parts_of({"config": config}):
        if not isinstance(part, dict) or part.get("_scope_") != "kd_mm" or not isinstance(part.get("type"), str):
            continue
        package, _, name = part["type"].rpartition(".")
        if package in ("mmpretrain", "mmdet"):
            part["_scope_"] = package
        elif not package and MODELS.get(name) is None:
            owners = [scope for scope, each in engine.MODELS.children.items() if name in each.module_dict]
            part["_scope_"] = owners[0] if owners else "kd_mm"


def normalizing_steps(config: Mapping[str, Any], key: str = "train_dataloader") -> list[str] | None:
    """Return mean, std and channel order of the ``Normalize`` steps of a loader's data; None without such data."""
    loader = config.get(key)
    if loader is None:
        return None
    steps = [part for _, part in parts_of(loader) if isinstance(part, Mapping) and "mean" in part and "std" in part]
    return [
        f"mean={[*map(float, step['mean'])]}, std={[*map(float, step['std'])]}, to_rgb={step.get('to_rgb', True)}"
        for step in steps
        if str(step.get("type")).rpartition(".")[2] == "Normalize"
    ]


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


def as_list(given: Any) -> list[Any]:
    """Return what a config gives as one value, several or none."""
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def data_sets(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the key of each data loader of a config, and the config of its data set, ``None`` where there is none.

    Raises:
        ValueError: A loader is no dict.
    """
    for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = config.get(key) or {}
        if not isinstance(loader, Mapping):
            raise ValueError(f"{key}: {loader!r} is no dict; for none write None")
        yield key, loader.get("dataset")


def innermost_dataset(config: Any) -> Any:
    """Return the config of the data set inside its wrappers, the first one that has a pipeline."""
    while "dataset" in config and "pipeline" not in config:
        config = config["dataset"]
    return config


def named_classes(config: Mapping[str, Any]) -> list[str]:
    """Return the classes that a config gives its training data by name; empty where it gives none."""
    lists = (value for key, value in parts_of({"data": config.get("train_dataloader")}) if key.endswith(".classes"))
    return [str(name) for name in next((names for names in lists if isinstance(names, list | tuple)), ())]
