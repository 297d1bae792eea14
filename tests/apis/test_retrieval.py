"""``tools/visualize_ranking.py`` on a small made-up gallery: its picture, its errors."""

import re
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from kd_mm.apis.evaluate import evaluate, plain_config
from kd_mm.apis.retrieval import embed, retrieve, select_queries
from kd_mm.apis.runner import read_config
from kd_mm.distillers.teacher import Teacher
from kd_mm.evaluation import evaluate_reid
from kd_mm.evaluation.draw_retrieval import write_retrieval

from ..helpers.errors import assert_refused
from ..helpers.market_folder import MarketFolder
from ..helpers.tools import Tools

PLAIN = """
custom_imports = dict(imports=["kd_mm"])
default_scope = "mmpretrain"
model = dict(
    type="kd_mm.ReIDModel",
    backbone=dict(type="ResNet_CIFAR", depth=18, base_channels=4, stem_channels=4, norm_cfg=dict(type="BN")),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="kd_mm.BNNeckHead", num_classes=4, in_channels=32),
)
data_preprocessor = dict(mean=[100.0 + SHIFT] * 3, std=[50.0] * 3, to_rgb=True)
pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=(16, 32)), dict(type="PackInputs")]
dataset = dict(type="kd_mm.Market1501", data_root="people", split="test", expected_counts=None, pipeline=pipeline)
test_dataloader = dict(
    batch_size=8, num_workers=0, dataset=dataset, sampler=dict(type="DefaultSampler", shuffle=False)
)
test_cfg = dict()
test_evaluator = dict(type="kd_mm.ReIDMetric", metric="euclidean", max_rank=30)
"""
DISTILLATION = """
_base_ = ["student.py"]
model = dict(
    _delete_=True, type="kd_mm.Distiller", student={{_base_.model}},
    teacher=dict(config="teacher.py", checkpoint="teacher.pth"),
)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people in their colours before three cameras, two distractors, one junk image, two untrained networks."""
    folder = tmp_path_factory.mktemp("ranking")
    images = MarketFolder(folder / "people")
    for pid, camera in product(range(1, 5), (1, 2, 3)):
        images.add("query", pid, camera)
        images.add("bounding_box_test", pid, camera)
    images.add("bounding_box_test", 0, 1, 2)
    images.add("bounding_box_test", -1, 1)
    for i, name in enumerate(("student", "teacher")):
        (folder / f"{name}.py").write_text(PLAIN.replace("SHIFT", str(i)))
        torch.manual_seed(i)
        with DefaultScope.overwrite_default_scope("mmpretrain"):
            model = MODELS.build(read_config(str(folder / f"{name}.py")).model)
        torch.save({"state_dict": model.state_dict()}, folder / f"{name}.pth")
    (folder / "distil.py").write_text(DISTILLATION)
    return folder


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_the_tool_writes_a_picture(tools: Tools, folder: Path) -> None:
    options = ["--out", "out/picture.png", "--queries", "3", "--top", "5"]
    done = tools.succeeds("visualize_ranking", "distil.py", "student.pth", *options, cwd=folder)
    pattern = r"student: mAP [\d.]+, .*\nteacher: mAP [\d.]+, .*\(euclidean distance, camera rule on\)"
    assert re.search(pattern, done.out)
    assert cv2.imread(str(folder / "out" / "picture.png")).shape[1] > 800
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["picture.png"]


def test_measures_are_those_of_the_evaluation() -> None:
    found = retrieve("distil.py", "student.pth", queries=12, top=14)
    assert list(found.tops) == ["student", "teacher"]
    assert found.selected == list(range(12))
    for name, top in found.tops.items():
        metrics = evaluate(f"{name}.py", f"{name}.pth", work_dir="work")
        assert 100 * top.measures["mAP"] == pytest.approx(metrics["reid/mAP"], abs=1e-9)
        assert 100 * top.measures["cmc"][4] == pytest.approx(metrics["reid/Rank-5"], abs=1e-9)
        assert top.measures["cmc"].shape == (30,)
        first = [found.right(query, top.images[query, 0]) for query in range(12)]
        assert np.mean(first) == pytest.approx(top.measures["cmc"][0])
    assert len(found.gallery) == metrics["reid/gallery"] == 14


def test_images_that_do_not_count_are_left_out() -> None:
    """Of 14 gallery images, one shows the query's person from its own camera."""
    found = retrieve("student.py", "student.pth", queries=12, top=14)
    (top,) = found.tops.values()
    for query in range(12):
        images = top.images[query]
        assert images[-1] == -1
        assert sorted(images[:-1]) == [
            i
            for i in range(14)
            if (found.gallery.pids[i], found.gallery.camids[i]) != (found.query.pids[query], found.query.camids[query])
        ]
        features = found.gallery.features[images[:-1]] - found.query.features[query]
        assert (np.diff((features**2).sum(axis=1)) >= -1e-3).all()
    write_retrieval(found, "plain.png", "a title & more")
    assert cv2.imread("plain.png") is not None


def test_a_given_teacher_and_the_worst_queries() -> None:
    found = retrieve("student.py", "student.pth", ("teacher.py", "teacher.pth"), 4, 3, pick="worst", rerank={})
    assert list(found.tops) == ["student", "teacher"]
    precision = found.tops["student"].average_precision
    assert found.selected == np.argsort(precision, kind="stable")[:4].tolist()
    assert found.setting == "euclidean distance, camera rule on, re-ranked"


def test_queries_are_picked_among_the_valid_ones() -> None:
    precision = np.array([0.5, np.nan, 0.1, 0.9, np.nan, 0.3])
    assert select_queries(precision, 2, "even") == [0, 5]
    assert select_queries(precision, 9, "even") == [0, 2, 3, 5]
    assert select_queries(precision, 2, "worst") == [2, 5]


def test_what_is_wrong_is_one_line() -> None:
    with pytest.raises(ValueError, match="page.pdf: give a name that ends in .png"):
        write_retrieval(retrieve("student.py", "student.pth"), "page.pdf", "")
    assert_refused("0 queries, 10 images of each: show at least 1", retrieve, "student.py", "student.pth", queries=0)
    assert_refused("pick='best' is unknown; choose one of 'even'", retrieve, "student.py", "student.pth", pick="best")
    with pytest.raises(ValueError, match="test_evaluator of this config has no kd_mm.ReIDMetric"):
        retrieve("student.py", "student.pth", options={"test_evaluator.type": "Accuracy"})
    with pytest.raises(ValueError, match="teacher 'teacher' has no checkpoint"):
        retrieve("distil.py", "student.pth", options={"model.teacher.checkpoint": None})


def test_the_students_queries_in_the_teachers_gallery() -> None:
    """The second batch of eight has queries and gallery images."""
    teacher = {"gallery_config": "teacher.py", "gallery_checkpoint": "teacher.pth"}
    both = [{"type": "kd_mm.ReIDMetric"}, {"type": "kd_mm.ReIDMetric", "prefix": "asymmetric", **teacher}]
    measured = evaluate("distil.py", "student.pth", {"test_evaluator": both})
    plain = plain_config(read_config("student.py"))
    networks = {name: Teacher(name, f"{name}.py", f"{name}.pth").model for name in ("student", "teacher")}
    (query, own), (_, other) = embed(plain, networks, camera_rule=True).values()
    for prefix, gallery in (("", own), ("asymmetric/", other)):
        ids = query.pids, gallery.pids, query.camids, gallery.camids
        expected = evaluate_reid(query.features, gallery.features, *ids)
        assert measured[f"{prefix}reid/mAP"] == pytest.approx(100 * expected["mAP"], abs=1e-9)
    assert measured["reid/mAP"] != measured["asymmetric/reid/mAP"]


@pytest.mark.parametrize(
    ("gallery", "message"),
    [
        (("wide.py", "wide.pth"), r"gives embeddings of length 64, the evaluated one of length 32: give the student"),
        (("teacher.py", None), "ReIDMetric: gallery_checkpoint is missing: the network of the gallery needs both"),
        (("teacher.py", "techer.pth"), "checkpoint techer.pth does not exist, did you mean"),
        (("wide.py", "teacher.pth"), "teacher 'gallery': teacher.pth does not fit its config"),
    ],
)
def test_a_gallery_that_cannot_be_searched(folder: Path, gallery: tuple[str, str | None], message: str) -> None:
    wide = PLAIN.replace("base_channels=4", "base_channels=8").replace("in_channels=32", "in_channels=64")
    (folder / "wide.py").write_text(wide.replace("SHIFT", "0"))
    torch.save({"state_dict": Teacher("wide", "wide.py", random_weights=True).model.state_dict()}, folder / "wide.pth")
    options = {"test_evaluator.gallery_config": gallery[0], "test_evaluator.gallery_checkpoint": gallery[1]}
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        evaluate("student.py", "student.pth", options)
    assert "\n" not in str(caught.value)
