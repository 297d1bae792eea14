"""Digits: fixed, disjoint, stratified splits of the images that scikit-learn ships."""

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

import kd_mm  # noqa: F401 - registers everything
from kd_mm.registry import DATASETS

COUNTS = {"train": [78, 82, 77, 83, 81, 82, 81, 79, 74, 80], "val": [40] * 10, "test": [60] * 10}


def build(split, **options):
    return DATASETS.build({"type": "kd_mm.Digits", "split": split, **options})


def raw(dataset):
    """The samples as a list of (bytes of the image, label)."""
    return [(info["img"].tobytes(), info["gt_label"]) for info in map(dataset.get_data_info, range(len(dataset)))]


@pytest.fixture(scope="module")
def splits():
    return {split: raw(build(split, size=8)) for split in COUNTS}


@pytest.mark.parametrize("split", COUNTS)
def test_every_split_is_stratified(splits, split):
    assert np.bincount([label for _, label in splits[split]]).tolist() == COUNTS[split]


def test_splits_are_disjoint_and_hold_every_original(splits):
    source = load_digits()
    originals = {
        (np.rint(image * 255 / 16).astype(np.uint8)[:, :, None].repeat(3, axis=2).tobytes(), int(label))
        for image, label in zip(source.images, source.target, strict=True)
    }
    assert len(originals) == 1797
    everything = [sample for samples in splits.values() for sample in samples]
    assert len(everything) == 1797
    assert set(everything) == originals


def test_splits_never_change(splits):
    digests = {
        split: hashlib.sha256(repr(sorted(samples)).encode()).hexdigest()[:16] for split, samples in splits.items()
    }
    assert digests == {"train": "3f9e0a73ae7cba36", "val": "f2e51c5f99252816", "test": "678c6e910c6b48e2"}


def test_images_are_enlarged_colour_images():
    dataset = build("val", size=16)
    image = dataset.get_data_info(0)["img"]
    assert image.shape == (16, 16, 3)
    assert image.dtype == np.uint8
    assert (image == image[:, :, :1]).all()
    small = build("val", size=8).get_data_info(0)["img"]
    assert abs(float(image.mean()) - float(small.mean())) < 5
    assert list(dataset.metainfo["classes"]) == list("0123456789")


def test_a_part_of_each_class_is_a_fixed_subset(splits):
    part, more = raw(build("train", size=8, samples_per_class=5)), raw(build("train", size=8, samples_per_class=20))
    assert np.bincount([label for _, label in part]).tolist() == [5] * 10
    assert set(part) < set(more) < set(splits["train"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "trainval"}, "split='trainval' is unknown; choose one of 'train', 'val', 'test'"),
        ({"split": "train", "size": 4}, "size must be at least 8"),
        ({"split": "train", "samples_per_class": 100}, "has 7[0-9] images|has 8[0-9] images"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
