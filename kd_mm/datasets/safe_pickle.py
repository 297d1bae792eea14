"""Reads pickles that hold nothing but numpy arrays and plain Python values."""

import importlib
import pickle
from pathlib import Path
from typing import Any

# What numpy writes into a pickle of an array, of a scalar and of Python 2 strings; nothing here runs foreign code.
_ALLOWED = {
    "numpy": {"ndarray", "dtype"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy._core.numeric": {"_frombuffer"},
    "_codecs": {"encode"},
}


class _ArrayUnpickler(pickle.Unpickler):
    """Refuses every global that is not part of an array."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which a file of arrays has no use for")
        return getattr(_import_numpy_part(module), name)


def _import_numpy_part(module: str) -> Any:
    """Import ``module`` under the name that the installed numpy uses (``numpy.core`` became ``numpy._core`` in 2.0)."""
    if not module.startswith(("numpy.core.", "numpy._core.")):
        return importlib.import_module(module)
    part = module.rpartition(".")[2]
    try:
        return importlib.import_module(f"numpy._core.{part}")
    except ModuleNotFoundError:
        return importlib.import_module(f"numpy.core.{part}")


def load_arrays(path: str | Path) -> dict[str, Any]:
    """Load a pickled dictionary of arrays, lists, strings and numbers, written by Python 2 or 3.

    Args:
        path: The file. Its content is not trusted: anything that would call code is refused before it is called.

    Raises:
        ValueError: One line, if the file is truncated, corrupt, holds something else or refers to other objects.
    """
    try:
        with open(path, "rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
    # A damaged pickle can fail in nearly any way, MemoryError included: each opcode works on whatever is on the stack.
    except OSError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{Path(path).absolute()} is damaged or is not the file it should be ({reason}): get it anew"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{Path(path).absolute()} holds a {type(content).__name__}, not the dictionary it should hold")
    return content
