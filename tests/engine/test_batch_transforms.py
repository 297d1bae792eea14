"""Batched transforms against upstream's, one image at a time: the same pixels, equally often."""

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from mmcv.transforms import RandomFlip
from mmpretrain.datasets.transforms import Cutout, RandomCrop, RandomErasing
from scipy.stats import chi2_contingency, chisquare, ks_2samp

from kd_mm.engine.batch_transforms import BATCH_TRANSFORMS

from ..devices import DEVICES
from ..helpers.errors import assert_refused

HEIGHT, WIDTH = 6, 5
#: Every pixel differs from every other, and from the paddings.
IMAGE = np.random.RandomState(0).permutation(np.arange(100, 100 + HEIGHT * WIDTH * 3)).astype(np.uint8)
IMAGE = IMAGE.reshape(HEIGHT, WIDTH, 3)


@pytest.fixture(params=DEVICES)
def batched(request: pytest.FixtureRequest) -> Any:
    """Return :func:`at_once` on each device."""
    return partial(at_once, request.param)


def at_once(device: str, transforms: list[Any], image: np.ndarray, count: int) -> np.ndarray:
    """Transform ``count`` copies of an image at once; return ``(count, H, W, C)``."""
    generator = torch.Generator(device).manual_seed(1)
    images = torch.from_numpy(image).permute(2, 0, 1).expand(count, -1, -1, -1).contiguous().to(device)
    for transform in transforms:
        make = BATCH_TRANSFORMS[type(transform)]
        images = make(transform, tuple(images.shape[1:]), images.device)(images, generator)
    return images.permute(0, 2, 3, 1).cpu().numpy()


def one_by_one(transforms: list[Any], image: np.ndarray, count: int) -> np.ndarray:
    """Transform ``count`` copies of an image by upstream's code."""
    np.random.seed(2)
    outputs = []
    for _ in range(count):
        results = {"img": image.copy()}
        for transform in transforms:
            results = transform(results)
        outputs.append(results["img"])
    return np.stack(outputs)


def counts(images: np.ndarray) -> Counter:
    return Counter(image.tobytes() for image in images)


def test_every_offset_and_flip_is_equally_frequent_and_exact_to_the_pixel(batched: Any) -> None:
    """An image of 6 x 5 pixels, padded by 2, has 25 crops of this size, each as it is or flipped."""
    padded = np.pad(IMAGE, ((2, 2), (2, 2), (0, 0)))
    crops = [padded[y : y + HEIGHT, x : x + WIDTH] for y in range(5) for x in range(5)]
    expected = {view.tobytes() for crop in crops for view in (crop, crop[:, ::-1])}
    assert len(expected) == 50
    transforms = [RandomCrop((HEIGHT, WIDTH), padding=2), RandomFlip(0.5)]
    found = counts(batched(transforms, IMAGE, 20_000))
    assert set(found) == expected
    assert chisquare([found[crop] for crop in expected]).pvalue > 0.001


@pytest.mark.parametrize(
    "transforms",
    [
        [RandomCrop((4, 3))],
        [RandomCrop(6, padding=1, pad_val=7)],
        [RandomCrop((6, 6), padding=(1, 0), pad_val=(1, 2.6, 3))],
        [RandomCrop((7, 5), padding=(0, 2, 1, 0), pad_val=9, padding_mode="reflect")],
        [RandomCrop((6, 5), padding=(1, 1), pad_if_needed=True)],
        [RandomFlip([0.1, 0.3, 0.2], ["horizontal", "vertical", "diagonal"])],
        [RandomFlip(0.6, ["vertical", "diagonal"])],
        [RandomFlip(0.5), RandomCrop((6, 5), padding=1, pad_val=(4, 5, 6))],
        [Cutout(shape=3, pad_val=(1, 2, 3), prob=0.7)],
        [Cutout(shape=(2, 4), prob=1.0)],
        [Cutout(magnitude_level=5, magnitude_range=(0, 6), prob=0.5)],
    ],
    ids=repr,
)
def test_images_and_their_frequencies_are_upstreams(batched: Any, transforms: list[Any]) -> None:
    found, expected = (counts(each(transforms, IMAGE, 4000)) for each in (batched, one_by_one))
    assert set(found) == set(expected)
    assert chi2_contingency([[each[image] for image in expected] for each in (found, expected)]).pvalue > 0.001


@pytest.mark.parametrize(
    "options",
    [
        {"erase_prob": 0.5},
        {"erase_prob": 1.0, "min_area_ratio": 0.3, "max_area_ratio": 1.0, "aspect_range": 0.2},
    ],
)
def test_erased_rectangles_are_distributed_as_upstreams(batched: Any, options: dict[str, Any]) -> None:
    """Area, aspect and position, on images of zeros."""
    transform = RandomErasing(fill_color=(250, 251, 252.9), **options)
    image = np.zeros((24, 16, 3), np.uint8)
    boxes = []
    for images in (batched([transform], image, 6000), one_by_one([transform], image, 6000)):
        erased = images[..., 0] == 250
        assert (images[erased] == (250, 251, 252)).all()
        assert not images[~erased].any()
        rows, columns = erased.any(2), erased.any(1)
        height, width = rows.sum(1), columns.sum(1)
        assert (height * width == erased.sum((1, 2))).all()  # a rectangle
        boxes.append((height > 0, height, width, rows.argmax(1), columns.argmax(1)))
    (some, *found), (others, *expected) = boxes
    assert chi2_contingency([[some.sum(), 6000 - some.sum()], [others.sum(), 6001 - others.sum()]]).pvalue > 0.001
    found, expected = ([part[chosen] for part in box] for chosen, box in ((some, found), (others, expected)))
    for own, upstream in zip(found, expected, strict=True):
        values = sorted(set(own) & set(upstream))
        table = [[(part == value).sum() for value in values] for part in (own, upstream)]
        assert sum(table[0]) > 0.999 * len(own)
        assert chi2_contingency(table).pvalue > 0.001
    for measure in (lambda h, w, *_: h * w, lambda h, w, *_: h / w, lambda h, w, y, x: h + 24 * (y == 24 - h)):
        assert ks_2samp(measure(*found), measure(*expected)).pvalue > 0.001


@pytest.mark.parametrize("std", [None, (10, 20, 30)])
def test_noise_in_erased_rectangles_is_distributed_as_upstreams(batched: Any, std: tuple[int, ...] | None) -> None:
    transform = RandomErasing(1.0, mode="rand", min_area_ratio=1.0, max_area_ratio=1.0, aspect_range=1.0)
    transform.fill_color, transform.fill_std = (20, 128, 240), std
    image = np.zeros((16, 16, 3), np.uint8)
    found, expected = (each([transform], image, 100) for each in (batched, one_by_one))
    for channel in range(3):
        table = [np.bincount(images[..., channel].ravel(), minlength=256) for images in (found, expected)]
        table = [row[np.sum(table, 0) > 0] for row in table]
        assert chi2_contingency(table).pvalue > 0.001


def test_what_cannot_be_reproduced_is_refused(batched: Any) -> None:
    for transform, problem in (
        (RandomCrop(8, padding=1), "larger than the padded images, 8x7 pixels"),
        (Cutout(magnitude_range=(0, 4), magnitude_std="inf"), "give it a shape"),
        (Cutout(magnitude_range=(0, 4), magnitude_std=1.0), "give it a shape"),
    ):
        assert_refused(problem, batched, [transform], IMAGE, 2)
