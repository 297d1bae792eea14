"""Fixed, class-balanced choices among labelled images that do not depend on the order of the images in a file."""

import hashlib

import numpy as np
from numpy.typing import NDArray


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
    """Mark the first ``count`` images of each class in ``order``.

    Args:
        order: ``(N,)`` indices of images.
        labels: ``(N,)`` classes of the images, by index.
        count: Images a class.

    Returns:
        Mask ``(N,)`` by index, ``count`` true entries a class.

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
