"""Images and people that are both trained on and evaluated."""

import filecmp
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from kd_mm.datasets import Market1501
from kd_mm.utils.samples import base_datasets
from kd_mm.utils.suggest import join_first, warn

#: Images looked at in a data set, evenly spread.
_LOOKED_AT = 200_000
#: Images of an evaluation that are looked for among the files of the training.
_COMPARED = 1000


def check_shared(key: str, dataset: Any, training: Any) -> None:
    """Warn where more than a hundredth of the images of an evaluation are training images, and of people in both.

    Images are the same by their path, or as copies of a file, for which a thousand are looked at; those that the
    samples hold themselves, by their pixels.

    Args:
        key: Where the config has it, e.g. ``"val_dataloader"``.
        dataset: Of the evaluation.
        training: The training data.
    """
    trained = set(_images(training))
    evaluated = list(_images(dataset)) if trained else []
    shared: list[Any] = [image for image in evaluated if image in trained]
    if not shared:
        evaluated = _spread(evaluated, _COMPARED)
        shared = _copies(evaluated, _spread(sorted(map(str, trained)), 20 * _COMPARED))
    if len(shared) > len(evaluated) // 100:
        paths = [image for image in shared if isinstance(image, str)]
        names = f" ({join_first(paths)})" if paths else ""
        warn(
            f"{key}: {len(shared)} of {len(evaluated)} images{names} are in the training data too: figures on them "
            "are too good, and no setting or epoch can be chosen by them; give images that are not trained on"
        )
    _check_identities(key, dataset, training)


def _spread(images: list[Any], most: int) -> list[Any]:
    return images[:: -(-len(images) // most) or 1]


def _copies(images: Sequence[str | int], others: Iterable[str]) -> list[str]:
    """Return the images whose files have the content of another one's."""
    size = {path: os.path.getsize(path) for path in map(str, images) if os.path.isfile(path)}
    wanted, found = set(size.values()), defaultdict(list)
    for other in others:
        if os.path.isfile(other) and os.path.getsize(other) in wanted:
            found[_end(other)].append(other)
    return [path for path in size if any(filecmp.cmp(path, other, False) for other in found.get(_end(path), ()))]


def _end(path: str) -> tuple[int, bytes]:
    """Return the size of a file and its last bytes, in which images of one size differ."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 256))
        return size, file.read()


def _check_identities(key: str, dataset: Any, training: Any) -> None:
    """Warn of people in both sets of one folder: they are matched better than those that a network has never seen."""
    pids: list[set[int]] = []
    roots = set()
    for each in (dataset, training):
        parts = [part for part in base_datasets(each) if isinstance(part, Market1501)]
        roots |= {part.data_root for part in parts}
        pids.append({part.get_data_info(index)["pid"] for part in parts for index in range(len(part))})
    if len(roots) == 1 and (shared := sorted(pids[0] & pids[1])):
        warn(
            f"{key}: {len(shared)} identities ({join_first(list(map(str, shared)))}) are in the training data "
            "too: results on them are too good"
        )


def _images(dataset: Any) -> Iterator[str | int]:
    real = cache(os.path.realpath)
    for part in base_datasets(dataset):
        for index in range(0, len(part), -(-len(part) // _LOOKED_AT) or 1):
            sample = part.get_data_info(index)
            if isinstance(path := sample.get("img_path"), str):
                folder, name = os.path.split(path)
                yield os.path.join(real(folder), name)
            elif isinstance(image := sample.get("img"), np.ndarray):
                yield hash(image.tobytes())
