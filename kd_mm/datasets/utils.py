"""Helpers of the data sets: layout of a folder, metainfo of samples, safe pickles, fixed balanced subsets."""

import contextlib
import hashlib
import importlib
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray

from kd_mm.utils.suggest import join_first


def require_layout(name: str, folder: str | Path, expected: Iterable[str], source: str) -> None:
    """Stop unless ``folder`` holds every entry of ``expected``.

    Args:
        name: What the data set is called in the message.
        folder: The folder.
        expected: Files and folders, relative to ``folder``; a folder ends with a slash.
        source: Where to get the data set, as text.

    Raises:
        FileNotFoundError: Naming the folder (absolute), what it lacks and where to get the data set.
    """
    root = Path(folder).expanduser().absolute()
    expected = list(expected)
    lacking = [entry for entry in expected if not (root / entry).exists()]
    if lacking:
        near = root if root.is_dir() else root.parent
        entries = sorted(entry for entry in near.iterdir()) if near.is_dir() else []
        found = f"it lacks {', '.join(lacking)}" if root.is_dir() else "no such folder"
        found += f" (there are: {join_first([entry.name for entry in entries])})" if entries else ""
        found = "it is a file, not a folder (unpack an archive)" if root.is_file() else found
        for other in (root.parent, *entries):
            if all((other / entry).exists() for entry in expected):
                found += f"; {other} has them"
        raise FileNotFoundError(
            f"{name} not found: looked in {root} for {', '.join(expected)}, but {found}. Nothing is downloaded: get it "
            f"from {source} and put it there, or set data_root."
        )


def add_metainfo(packed: Any, info: dict[str, Any], keys: Iterable[str]) -> Any:
    """Copy entries of a sample before the pipeline into the metainfo of what it made, ``packed["data_samples"]``.

    The data sample is changed in place, if there is one; ``packed`` is returned.
    """
    sample = packed.get("data_samples") if isinstance(packed, dict) else None
    if isinstance(sample, BaseDataElement):
        sample.set_metainfo({key: info[key] for key in keys})
    return packed


#: Globals that numpy writes into pickles of arrays, scalars and Python 2 strings; none of them runs foreign code.
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
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not part of an array")
        # numpy.core is numpy._core from numpy 2.0 on.
        for part in (module.replace("numpy.core", "numpy._core"), module.replace("numpy._core", "numpy.core")):
            with contextlib.suppress(ModuleNotFoundError):
                return getattr(importlib.import_module(part), name)
        raise pickle.UnpicklingError(f"it refers to {module}, which this numpy does not have")


def load_arrays(path: str | Path) -> dict[str, Any]:
    """Load a pickled dictionary of arrays, lists, strings and numbers, written by Python 2 or 3.

    Args:
        path: The file. It is not trusted: every global that is not part of an array is rejected before it is called.

    Raises:
        ValueError: The file is damaged, is not a dictionary or refers to other objects.
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


def stable_order(images: NDArray[np.uint8], seed: int) -> NDArray[np.int64]:
    """Return the indices of ``images`` in a random order that depends on their content and ``seed`` alone.

    Copies of a data set that hold the same images in different orders thus give the same choice. Images are ranked by
    a hash of the seed and their bytes.

    Args:
        images: ``(N, ...)``, uint8, one image a row.
        seed: Any integer; another seed gives another order.
    """
    prefix = str(seed).encode()
    keys = [hashlib.blake2b(prefix + image.tobytes(), digest_size=16).digest() for image in images]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def take_per_class(order: NDArray[np.int64], labels: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Mark the first ``count`` images of each class in ``order``, ``(N,)`` indices; return a mask ``(N,)`` by index.

    ``labels`` are the classes ``(N,)`` of the images, by index.

    Raises:
        ValueError: If a class has fewer images.
    """
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        if len(members) < count:
            raise ValueError(f"class {label} has {len(members)} images, but {count} were asked for")
        chosen[members[:count]] = True
    return chosen
