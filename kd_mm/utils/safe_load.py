"""Loading a checkpoint file without running code from it, and telling what a file is that is none."""

import importlib
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer

from kd_mm.ops.decoding import other_file

#: Keys of a file under which toolkits store weights, the most usual first.
WEIGHT_KEYS = ("state_dict", "model", "net", "model_state_dict", "state_dict_ema", "ema_state_dict", "model_ema")
_STATISTICS = ("min", "max", "current", "mean")
_ARRAYS = "numpy arrays: save them as tensors, torch.save({name: torch.from_numpy(array), ...}, PATH)"
_DTYPES = ("float64", "float32", "int64", "int32", "bool", "U1")


class UnsafeCheckpointError(ValueError):
    """A complete checkpoint that holds objects which would have to be executed."""


def load_safely(file: Path) -> Any:
    """Load ``file`` on the CPU with ``weights_only=True``.

    Raises:
        UnsafeCheckpointError: It holds objects that would have to be executed.
        ValueError: The file is no checkpoint, is cut short, or holds numpy arrays; or it is a safetensors file and that
            package is missing.
    """
    if is_safetensors(file):
        try:
            safetensors = importlib.import_module("safetensors")
        except ImportError as error:
            raise ValueError(f"{file} is a safetensors file: install the package safetensors to read it") from error
        try:
            return importlib.import_module("safetensors.torch").load_file(file)
        except safetensors.SafetensorError as error:
            raise ValueError(_incomplete(file)) from error
    try:
        # torch would read an open file as what it is, and one by name as what its ending says.
        with file.open("rb") as opened, _allowing(_logged_types()):
            stored = torch.load(opened, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise ValueError(_incomplete(file)) from error
        raise UnsafeCheckpointError(
            f"checkpoint {file} cannot be read safely: it holds a {refused[1]}, and only weights and what mmengine "
            "logs are read; keep its weights alone: torch.save({'state_dict': ...}, PATH)"
        ) from error
    except (RuntimeError, EOFError, OSError, LookupError, AttributeError, ValueError) as error:
        raise ValueError(_incomplete(file)) from error
    parts = [stored, *map(stored.get, WEIGHT_KEYS)] if isinstance(stored, Mapping) else []
    if any(isinstance(part, Mapping) and {*map(type, part.values())} == {np.ndarray} for part in parts):
        raise ValueError(f"{file} holds {_ARRAYS}")
    return stored


def _incomplete(file: Path) -> str:
    with file.open("rb") as opened:
        head = opened.read(40)
    what = other_file(head)
    if what and head.startswith(b"PK"):  # as checkpoints are
        inside = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else ["data.pkl"]
        what = "" if any(name.endswith("data.pkl") for name in inside) else what
        if any("/code/" in name for name in inside):
            what = "of TorchScript: write its state_dict() by torch.save"
        if any(name.endswith(".npy") for name in inside):
            what = _ARRAYS
    if head.startswith(b"\x80") and b"\xfc\x9c\x46\xf9" not in head:  # torch's own number
        what = "a pickle of another program, such as detectron2's .pkl: write its arrays as tensors by torch.save"
    if file.name == "last_checkpoint":
        return f"{file} names one: give {file.read_text(errors='replace').strip()}, or --resume alone"
    if what:
        return f"{file} is no checkpoint but {what}"
    return f"{file} is no checkpoint, or cut short: was the download or the run that wrote it interrupted?"


def is_safetensors(file: Path) -> bool:
    """Return whether a file, whatever its ending, begins with the length of a header and the header of safetensors."""
    with file.open("rb") as opened:
        head = opened.read(10)
    return head[8:] in (b'{"', b"{ ", b"{}") and int.from_bytes(head[:8], "little") < file.stat().st_size


def _logged_types() -> list[Any]:
    """Return what the history of a message hub consists of, under the names of numpy 1 and numpy 2."""
    installed = "_core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "core"
    multiarray = importlib.import_module(f"numpy.{installed}.multiarray")
    parts = {"_reconstruct": multiarray._reconstruct, "scalar": multiarray.scalar}
    arrays = [
        _under_name(part, f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name, part in parts.items()
    ]
    dtypes = [type(np.dtype(kind)) for kind in _DTYPES]
    functions = [_under_name(_statistic, "builtins", "getattr"), _under_name(_latin1, "_codecs", "encode")]
    return [HistoryBuffer, *functions, *arrays, np.ndarray, np.dtype, *dtypes]


def _latin1(text: str, encoding: str) -> bytes:
    # How old pickle protocols write the bytes of an array; torch allows it by itself from 2.5 on.
    if encoding != "latin1":
        raise pickle.UnpicklingError("Unsupported global: GLOBAL _codecs.encode")
    return text.encode("latin1")


def _statistic(owner: Any, name: str) -> Any:
    # A history names its statistics by `getattr(HistoryBuffer, "mean")`; a free getattr would open the interpreter.
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise pickle.UnpicklingError("Unsupported global: GLOBAL builtins.getattr")
    return getattr(owner, name)


def _under_name(function: Callable[..., Any], module: str, name: str) -> Callable[..., Any]:
    """Return a function that a pickle finds under ``module.name``."""

    def named(*args: Any) -> Any:
        return function(*args)

    named.__module__, named.__name__, named.__qualname__ = module, name, name
    return named


@contextmanager
def _allowing(types: list[Any]) -> Iterator[None]:
    # torch.serialization.safe_globals does this from torch 2.5 on.
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(types)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
