"""CIFAR-10 and CIFAR-100 from small copies of the official archives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmpretrain.datasets.categories import CIFAR100_CATEGORIES
from mmpretrain.registry import DATASETS

from kd_mm.datasets import CIFAR10, CIFAR100

from ..helpers.cifar_files import write, write_cifar10, write_cifar100
from ..helpers.errors import assert_refused


def cifar100(root: Path, split: str, **kwargs: Any) -> CIFAR100:
    return CIFAR100(data_root=str(root), split=split, val_size=100, allow_partial=True, **kwargs)


def contents(dataset: Any) -> set[bytes]:
    return {dataset[index]["img"].tobytes() for index in range(len(dataset))}


def test_images_and_labels_equal_the_files(tmp_path: Path) -> None:
    images, labels = write_cifar100(tmp_path)
    dataset = cifar100(tmp_path, "trainval")
    assert len(dataset) == 400
    assert all(np.array_equal(dataset[i]["img"], images[i]) for i in range(400))
    assert dataset.get_gt_labels().tolist() == labels.tolist()
    assert dataset[0]["img"].dtype == np.uint8
    assert dataset.metainfo["classes"] == CIFAR100_CATEGORIES
    assert "Number of samples: \t400" in repr(dataset)


def test_cifar10_joins_five_training_files(tmp_path: Path) -> None:
    images, labels = write_cifar10(tmp_path)
    config = {"type": "kd_mm.CIFAR10", "data_root": str(tmp_path), "allow_partial": True}
    dataset = DATASETS.build({**config, "pipeline": [{"type": "mmpretrain.PackInputs"}]})
    assert isinstance(dataset, CIFAR10)
    packed = dataset[150]
    assert np.array_equal(packed["inputs"].numpy(), images[150].transpose(2, 0, 1))
    assert packed["data_samples"].gt_label.item() == labels[150]
    assert len(DATASETS.build({**config, "split": "test"})) == 40
    folder = tmp_path / "cifar-10-batches-py"
    (folder / "data_batch_4").write_bytes((folder / "data_batch_2").read_bytes())
    with pytest.raises(ValueError, match="the images of data_batch_2 are those of another file"):
        DATASETS.build(config)


def test_the_validation_split_is_balanced_disjoint_complete_and_independent_of_the_order(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    train, val, both = (cifar100(tmp_path, split) for split in ("train", "val", "trainval"))
    assert np.bincount(val.get_gt_labels()).tolist() == [1] * 100
    assert np.bincount(train.get_gt_labels()).tolist() == [3] * 100
    assert contents(train) | contents(val) == contents(both)
    assert not contents(train) & contents(val)
    write_cifar100(tmp_path / "a")
    write_cifar100(tmp_path / "b", np.random.RandomState(3).permutation(400))
    assert contents(cifar100(tmp_path / "a", "val")) == contents(cifar100(tmp_path / "b", "val"))
    assert contents(cifar100(tmp_path / "a", "val")) != contents(cifar100(tmp_path / "a", "val", split_seed=1))


def test_a_subset_has_the_same_number_of_each_class_and_stays_inside_its_split(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    few = cifar100(tmp_path, "train", samples_per_class=2)
    assert np.bincount(few.get_gt_labels()).tolist() == [2] * 100
    assert contents(few) < contents(cifar100(tmp_path, "train"))
    assert contents(few) == contents(cifar100(tmp_path, "train", samples_per_class=2))
    assert_refused("has 3 images, but 4 were asked for", cifar100, tmp_path, "train", samples_per_class=4)


def test_wrong_options_and_other_counts_than_the_official_ones(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    for val_size in (0, 150, 400):
        with pytest.raises(ValueError, match="multiple of 100 below the 400"):
            CIFAR100(data_root=str(tmp_path), split="val", val_size=val_size, allow_partial=True)
    assert_refused(
        "split='validation' is unknown; choose one of 'train'", CIFAR10, data_root=str(tmp_path), split="validation"
    )
    write_cifar100(tmp_path)
    with pytest.raises(ValueError, match="train holds 400 images, the official file 50000.*allow_partial=True"):
        CIFAR100(data_root=str(tmp_path))
    content = {"data": np.zeros((10_000, 3072), np.uint8), "fine_labels": [i % 100 for i in range(10_000)]}
    write(tmp_path / "cifar-100-python" / "test", content)
    assert len(CIFAR100(data_root=str(tmp_path), split="test")) == 10_000


def test_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        CIFAR100(data_root="data/cifar100")
    message = str(caught.value)
    assert f"{tmp_path}/data/cifar100/cifar-100-python for train, test, meta" in message
    assert "cs.toronto.edu/~kriz/cifar.html (cifar-100-python.tar.gz" in message
    assert "\n" not in message
    write_cifar100(tmp_path / "data" / "cifar100")
    (tmp_path / "data/cifar100/cifar-100-python/meta").unlink()
    with pytest.raises(FileNotFoundError, match="it lacks meta"):
        CIFAR100(data_root="data/cifar100")


def test_wrong_files_raise_one_line(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    for content, message in (
        ({"fine_labels": [1]}, "but not both 'data' and 'fine_labels'"),
        ({"data": np.zeros((2, 3072), np.float32), "fine_labels": [1, 2]}, "'data' is float32 of shape"),
        ({"data": np.zeros((2, 3000), np.uint8), "fine_labels": [1, 2]}, r"shape \(2, 3000\)"),
        ({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [1]}, "2 images, but labels of shape"),
        ({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [1, 100]}, "labels from 1 to 100"),
        ([1, 2], "holds a list"),
    ):
        write(tmp_path / "cifar-100-python" / "train", content)
        with pytest.raises(ValueError, match=message) as caught:
            cifar100(tmp_path, "trainval")
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)
    write_cifar100(tmp_path)
    write(tmp_path / "cifar-100-python" / "meta", {"fine_label_names": list(CIFAR100_CATEGORIES[::-1])})
    assert_refused("'fine_label_names' is not the official list of 100 class names", cifar100, tmp_path, "trainval")
