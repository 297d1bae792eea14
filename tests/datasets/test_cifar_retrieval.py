"""Retrieval over held-out classes of CIFAR-100."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmpretrain.datasets.categories import CIFAR100_CATEGORIES

from kd_mm.datasets import CIFAR100Retrieval
from kd_mm.datasets.cifar_retrieval import TRAINING_CLASSES

from ..helpers.cifar_files import write_cifar100
from ..helpers.errors import assert_refused

PACK = [{"type": "mmpretrain.PackInputs"}]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cifar100")
    write_cifar100(folder)
    return folder


def read(root: Path, split: str, **options: Any) -> CIFAR100Retrieval:
    arguments = {"val_size": 200, "queries_per_class": 1, "allow_partial": True, "pipeline": PACK, **options}
    return CIFAR100Retrieval(str(root), split, **arguments)


def infos(data: CIFAR100Retrieval) -> list[dict[str, Any]]:
    return [data.get_data_info(index) for index in range(len(data))]


def test_test_has_other_classes_and_validation_other_images_than_training(root):
    train, test = infos(read(root, "train")), infos(read(root, "test"))
    assert {info["gt_label"] for info in train} == set(range(TRAINING_CLASSES))
    assert {info["pid"] for info in train} == set(range(1, 81))
    assert {info["pid"] for info in test} == set(range(81, 101))
    assert read(root, "train").metainfo["classes"] == tuple(CIFAR100_CATEGORIES[:80])
    train, val = infos(read(root, "train")), infos(read(root, "val"))
    assert {info["pid"] for info in val} == {info["pid"] for info in train}
    assert not {info["img"].tobytes() for info in val} & {info["img"].tobytes() for info in train}
    assert Counter(info["pid"] for info in val) == dict.fromkeys(range(1, 81), 2)


def test_queries_come_before_the_gallery_whatever_the_order_of_the_images(root, tmp_path):
    roles = [info["role"] for info in infos(read(root, "test"))]
    assert roles == ["query"] * 20 + ["gallery"] * 60
    queries = [info["pid"] for info in infos(read(root, "test", queries_per_class=3)) if info["role"] == "query"]
    assert Counter(queries) == dict.fromkeys(range(81, 101), 3)
    write_cifar100(tmp_path, order=np.random.default_rng(3).permutation(400))
    chosen = [
        {info["img"].tobytes() for info in infos(read(folder, "val")) if info["role"] == "query"}
        for folder in (root, tmp_path)
    ]
    assert chosen[0] == chosen[1]


def test_metainfo_of_samples(root):
    data = read(root, "test")
    sample = data[25]["data_samples"]
    info = data.get_data_info(25)
    assert (sample.pid, sample.role, sample.sample_idx) == (info["pid"], "gallery", 25)
    assert "camid" not in sample
    assert "gt_label" not in sample
    trained = read(root, "train")[3]["data_samples"]
    assert int(trained.gt_label) + 1 == trained.pid


def test_wrong_options(root):
    assert_refused("split='trainval' is unknown; choose one of 'train', 'val', 'test'", read, root, "trainval")
    assert_refused("queries_per_class must be 1 to 3, .* 4 images; got 4", read, root, "test", queries_per_class=4)
