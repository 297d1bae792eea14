"""Missing data: what validation needs stops the run before its first step, what a test needs is a warning."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from ..helpers.market_folder import MarketFolder
from ..helpers.tools import Ended, Tools
from ..helpers.world import World
from .test_own_voc_folder import Own
from .test_reid import PLAIN as REID

WARNING = "(training does not need it, a test will)"


def refused(tools: Tools, config: Path, work_dir: Path, *words: str, options: Sequence[str] = ()) -> None:
    chosen = ["--cfg-options", *options] if options else []
    line = tools.refused("train", config, "--work-dir", work_dir, *chosen)
    for word in words:
        assert word in line
    assert not work_dir.exists()


def warned(ended: Ended, *words: str) -> None:
    assert "Epoch(train)" in ended.out
    (line,) = [line for line in ended.out.splitlines() if WARNING in line]
    for word in ("WARNING - test_dataloader: ", *words):
        assert word in line


def test_classification(tools: Tools, world: World, tmp_path: Path) -> None:
    lists = tmp_path / "val.txt"
    lists.write_text("".join(f"red/{number}.png {number % 3}\n" for number in range(7)))
    listed = ["val_dataloader.dataset.data_prefix=val", f"val_dataloader.dataset.ann_file={lists}"]
    first = world.folder / "data" / "val" / "red" / "0.png"
    words = f"val_dataloader: {first} does not exist (missing are 7 of 7 images"
    refused(tools, world.plain, tmp_path / "run", words, options=listed)

    one_epoch = ["--cfg-options", "train_cfg.max_epochs=1"]
    nowhere = "test_dataloader.dataset.data_root=/nowhere"
    ended = tools.train(world.plain, "--work-dir", tmp_path / "tested", *one_epoch, nowhere)
    warned(ended, "/nowhere/val does not exist")
    assert WARNING not in tools.train(world.plain, "--work-dir", tmp_path / "complete", *one_epoch).out
    ended = tools.run("compare", world.plain, "--work-dir", tmp_path / "compared", "--seeds", 0, *one_epoch, nowhere)
    assert ended.status == 2
    assert "/nowhere/val" in ended.err
    assert "Epoch(train)" not in (tmp_path / "compared/checks/plain_seed0/console.log").read_text()


def test_detection(tools: Tools, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    own = Own(tmp_path_factory.mktemp("own"))
    work_dir = tmp_path / "run"

    def stops(*words: str, options: Sequence[str] = ()) -> None:
        refused(tools, own.student, work_dir, *words, options=options)

    missing = "list of images not found: looked for ", "/cells/ImageSets/Main/vall.txt, did you mean val.txt?"
    stops(*missing, options=["val_dataloader.dataset.ann_file=ImageSets/Main/vall.txt"])
    stops("looked in /nowhere for Annotations/", options=["val_dataloader.dataset.data_root=/nowhere/"])
    for image in (own.folder / "cells" / "JPEGImages").glob("val*"):
        image.unlink()
    stops("4 of 4 images of ", "there is no ", "JPEGImages/val000.jpg")
    missing = "val_dataloader: ", "JPEGImages/val000.jpg does not exist (missing are 4 of 4 images"
    stops(*missing, options=["val_dataloader.dataset.type=mmdet.VOCDataset"])
    train_list = "val_dataloader.dataset.ann_file=ImageSets/Main/train.txt"
    ended = tools.train(own.student, "--work-dir", work_dir, "--cfg-options", train_list)
    warned(ended, "4 of 4 images of ", "there is no ")


def test_reid(tools: Tools, tmp_path: Path) -> None:
    images = MarketFolder(tmp_path / "street").fill()
    config = tmp_path / "config.py"
    config.write_text(REID.replace("DATA", str(images.root)))
    shutil.copytree(images.root, tmp_path / "other")
    (images.root / "query").rename(tmp_path / "query")
    work_dir = tmp_path / "run"
    words = f"street not found: looked in {images.root} for query/, bounding_box_test/, but it lacks query/"
    refused(tools, config, work_dir, words)
    options = ["train_cfg.max_epochs=1", f"val_dataloader.dataset.data_root={tmp_path}/other"]
    warned(tools.train(config, "--work-dir", work_dir, "--cfg-options", *options), words)
    (tmp_path / "query").rename(images.root / "query")
    for path in (*(images.root / "query").iterdir(), *(images.root / "bounding_box_test").iterdir()):
        path.rename(path.with_name(path.name.replace("0001_c", "0002_c")))
    ended = tools.train(config, "--work-dir", tmp_path / "leak", "--cfg-options", "train_cfg.max_epochs=1")
    assert "val_dataloader: 1 identities (2) are in the training data too: results on them are too good" in ended.out
