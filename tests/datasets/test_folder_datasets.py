"""Tiny ImageNet, CUB-200-2011 and ImageNet in small copies of their official layouts."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine import Config
from mmpretrain.registry import DATASETS
from PIL import Image

from kd_mm.datasets import CUB, ImageNet, TinyImageNet

from ..helpers.errors import assert_refused

CONFIGS = Path(__file__).parents[2] / "configs" / "_base_" / "datasets"


def write_image(path: Path, color: tuple[int, int, int], size: int = 64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), color, np.uint8)).save(path)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    root = tmp_path / "tiny-imagenet-200"
    for wnid, color in (("n02", (200, 0, 0)), ("n01", (0, 0, 200))):
        for index in range(3):
            write_image(root / "train" / wnid / "images" / f"{wnid}_{index}.JPEG", color)
    write_image(root / "val" / "images" / "val_0.JPEG", (200, 0, 0))
    write_image(root / "val" / "images" / "val_1.JPEG", (0, 0, 200))
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t62\t62\nval_1.JPEG\tn01\t0\t0\t62\t62\n")
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\tbullfrog\n")
    return root


def test_tiny_imagenet_counts_identifiers_in_sorted_order_from_lists_and_folders(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = TinyImageNet(data_root=str(tiny))
    assert train.metainfo["classes"] == ("goldfish, Carassius auratus", "bullfrog")
    assert train.get_gt_labels().tolist() == [0, 0, 0, 1, 1, 1]
    assert all(f"/n0{label + 1}/" in train[i]["img_path"] for i, label in enumerate(train.get_gt_labels()))
    val = TinyImageNet(data_root=str(tiny), split="val")
    assert [(Path(val[i]["img_path"]).name, val[i]["gt_label"]) for i in range(2)] == [
        ("val_0.JPEG", 1),
        ("val_1.JPEG", 0),
    ]
    write_image(tiny / "val" / "images" / "val_2.JPEG", (0, 0, 0))
    assert len(TinyImageNet(data_root=str(tiny), split="val")) == 2
    assert "1 images of " in (out := capsys.readouterr().out)
    assert "have no line in val_annotations.txt and are left out: val_2.JPEG" in out
    (tiny / "val" / "images" / "val_2.JPEG").unlink()
    for name, wnid in (("val_0", "n02"), ("val_1", "n01")):
        (tiny / "val" / wnid).mkdir()
        (tiny / "val" / "images" / f"{name}.JPEG").rename(tiny / "val" / wnid / f"{name}.JPEG")
    (tiny / "val" / "images").rmdir()
    capsys.readouterr()
    val = TinyImageNet(data_root=str(tiny), split="val")
    assert [(Path(val[i]["img_path"]).name, val[i]["gt_label"]) for i in range(2)] == [
        ("val_1.JPEG", 0),
        ("val_0.JPEG", 1),
    ]
    assert not capsys.readouterr().out
    write_image(tiny / "val" / "images" / "val_2.JPEG", (0, 0, 0))
    write_image(tiny / "val" / "n03" / "val_3.JPEG", (0, 0, 0))
    (tiny / "words.txt").write_text("n01\tcrane\nn02\tcrane\n")
    assert TinyImageNet(data_root=str(tiny), split="val").metainfo["classes"] == ("crane (n01)", "crane (n02)")
    out = capsys.readouterr().out
    assert f"Tiny ImageNet: 2 images below {tiny}/val are not read: {tiny}/val/images/val_2.JPEG, " in out


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tiny_imagenet_as_editors_leave_it(tiny: Path, encoding: str) -> None:
    expected = TinyImageNet(data_root=str(tiny), split="val").metainfo
    for name in ("wnids.txt", "words.txt", "val/val_annotations.txt"):
        text = (tiny / name).read_text().replace("\n", " \r\n")
        (tiny / name).write_bytes(text.encode(encoding))
    (tiny / "wnids.txt").write_text("n02\tbullfrog\nn01 goldfish\n")
    for path in (tiny / "train").rglob("*.JPEG"):
        path.rename(path.with_suffix(".jpeg"))
        path.with_name(f"._{path.name}").write_bytes(b"of macOS")
    val = TinyImageNet(data_root=str(tiny), split="val")
    assert val.metainfo == expected
    assert val.get_gt_labels().tolist() == [1, 0]
    assert len(TinyImageNet(data_root=str(tiny))) == 6


def test_tiny_imagenet_config_gives_images_of_64_pixels(tiny: Path) -> None:
    config = Config.fromfile(CONFIGS / "tiny_imagenet.py")
    for loader in (config.train_dataloader, config.val_dataloader):
        sample = DATASETS.build({**loader.dataset, "data_root": str(tiny)})[0]
        assert sample["inputs"].shape == (3, 64, 64)


def test_tiny_imagenet_errors(tiny: Path) -> None:
    assert_refused("'train' or 'val'", TinyImageNet, data_root=str(tiny), split="test")
    (tiny / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn77\t0\t0\t62\t62\n")
    assert_refused("val_annotations.txt, line 1: 'n77'", TinyImageNet, data_root=str(tiny), split="val")
    for image in (tiny / "train" / "n01" / "images").iterdir():
        image.unlink()
    with pytest.raises(FileNotFoundError, match="no image in .*train/n01: unpack anew"):
        TinyImageNet(data_root=str(tiny))
    (tiny / "words.txt").unlink()
    with pytest.raises(FileNotFoundError, match="lacks words.txt.*tiny-imagenet-200.zip"):
        TinyImageNet(data_root=str(tiny))


def test_cub_reads_the_official_layout(tmp_path: Path) -> None:
    for index in (1, 2, 3):
        write_image(tmp_path / "images" / f"00{index}.Bird" / f"b{index}.jpg", (10, 20, 30), 300)
    (tmp_path / "images.txt").write_text("".join(f"{i} 00{i}.Bird/b{i}.jpg\n" for i in (1, 2, 3)))
    (tmp_path / "image_class_labels.txt").write_text("1 1\n2 2\n3 200\n")
    (tmp_path / "train_test_split.txt").write_text("1 1\n2 0\n3 1\n")
    assert CUB(data_root=str(tmp_path), split="train").get_gt_labels().tolist() == [0, 199]
    assert CUB(data_root=str(tmp_path), split="test").get_gt_labels().tolist() == [1]
    config = Config.fromfile(CONFIGS / "cub200.py")
    for loader in (config.train_dataloader, config.test_dataloader):
        assert DATASETS.build({**loader.dataset, "data_root": str(tmp_path)})[0]["inputs"].shape == (3, 224, 224)
    (tmp_path / "train_test_split.txt").write_text("1 1\n2 2\n3 1\n")
    with pytest.raises(ValueError, match="split.txt: line 2 is '2 2', not an image's number and 1 for training"):
        CUB(data_root=str(tmp_path))
    (tmp_path / "train_test_split.txt").write_text("1 1\n2 0\n3 1\n")
    (tmp_path / "image_class_labels.txt").write_text("1 0\n2 1\n3 199\n")
    with pytest.raises(ValueError, match="line 1 is '1 0', not an image's number and its class, counted from 1"):
        CUB(data_root=str(tmp_path))
    (tmp_path / "image_class_labels.txt").write_text("1 1\n2 2\n2 5\n3 200\n")
    with pytest.raises(ValueError, match=r"image_class_labels.txt: images have several lines, number 2$"):
        CUB(data_root=str(tmp_path))
    (tmp_path / "image_class_labels.txt").write_text("1 1\n2 2\n3 200\n")
    (tmp_path / "train_test_split.txt").write_text("1 1\n2 0\n")
    with pytest.raises(ValueError, match="images.txt and train_test_split.txt have not the same images, .* numbers 3:"):
        CUB(data_root=str(tmp_path))
    (tmp_path / "images.txt").write_text("1 001.Bird/b1.jpg\n\n2 002.Odd bird/b2.jpg\n")
    with pytest.raises(ValueError, match="images.txt: line 2 is '2 002.Odd bird/b2.jpg', not an image's number and"):
        CUB(data_root=str(tmp_path))
    (tmp_path / "train_test_split.txt").unlink()
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} for images.txt.* it lacks train_test_split.txt"):
        CUB(data_root=str(tmp_path))


def test_imagenet_reads_class_folders_and_lists(tmp_path: Path) -> None:
    for index in range(1000):
        folder = tmp_path / "train" / f"n{index:08d}"
        folder.mkdir(parents=True)
        (folder / "x.JPEG").touch()
    assert len(ImageNet(data_root=str(tmp_path), split="train")) == 1000
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"ImageNet-1k: .*train: The number of subfolders \(999\) doesn't match"):
        ImageNet(data_root=str(tmp_path), split="train")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "n00000001.tar").touch()
    with pytest.raises(FileNotFoundError, match=r"holds archives \(n00000001.tar\): unpack each into a folder"):
        ImageNet(data_root=str(tmp_path), split="val")
    (tmp_path / "val" / "n00000001.tar").rename(tmp_path / "val" / "y.JPEG")
    with pytest.raises(FileNotFoundError, match="it lacks meta/val.txt.*image-net.org"):
        ImageNet(data_root=str(tmp_path), split="val")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "val.txt").write_text("y.JPEG 65\n")
    assert ImageNet(data_root=str(tmp_path), split="val").get_gt_labels().tolist() == [65]


def test_missing_data_sets_raise_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("cifar10", "cifar100", "cub200", "imagenet", "tiny_imagenet")
    configs = [Config.fromfile(CONFIGS / f"{name}.py") for name in names]
    for loader in (config[f"{part}_dataloader"] for config in configs for part in ("train", "val", "test")):
        with pytest.raises(FileNotFoundError, match=f"looked in {tmp_path}/data/.*http.*set data_root") as caught:
            DATASETS.build(loader.dataset)
        assert "\n" not in str(caught.value)
