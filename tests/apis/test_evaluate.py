"""``tools/test.py`` on a detection config: the table, and pictures of what the student finds."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from kd_mm.apis.evaluate import _add_detection_metric, evaluate
from kd_mm.apis.runner import read_config

from ..helpers.errors import assert_refused
from ..helpers.tools import Ended, Tools
from ..helpers.voc_folder import VOCFolder, xml

PLAIN = """
_base_ = ["mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py"]
custom_imports = dict(imports=["kd_mm"])
model = dict(
    data_preprocessor=dict(mean=MEAN),
    backbone=dict(depth=18, base_channels=4, init_cfg=None),
    neck=dict(in_channels=[4, 8, 16, 32], out_channels=8),
    bbox_head=dict(num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1),
    test_cfg=dict(score_thr=0.0, max_per_img=5),
)
pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
dataset = dict(data_root="data/VOCdevkit/", metainfo=dict(classes=("disc", "box")), pipeline=pipeline)
test_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dataset)
"""
RESIZE = 'dict(type="Resize", scale=(64, 64), keep_ratio=True)'
DISTILLATION = """
_base_ = ["student.py"]
model = dict(
    _delete_=True, type="kd_mm.Distiller", student={{_base_.model}},
    teacher=dict(config="teacher.py", checkpoint="teacher.pth", dtype="bfloat16"),
)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images in VOC's layout, two configs with untrained detectors, and a distillation config of both."""
    folder = tmp_path_factory.mktemp("show")
    voc = VOCFolder(folder / "data" / "VOCdevkit")
    for name in ("000001", "000002", "000003"):
        voc.image(name, 60, 50)
        voc.annotate(
            name, xml([("disc", (5, 5, 25, 25)), ("box", (20, 10, 50, 40))], "<width>60</width><height>50</height>")
        )
    voc.split("test", ["000001", "000002", "000003"])
    for i, name in enumerate(("student", "teacher")):
        (folder / f"{name}.py").write_text(PLAIN.replace("MEAN", str([100.0 + i] * 3)))
        with DefaultScope.overwrite_default_scope("mmdet"):
            torch.manual_seed(i)
            model = MODELS.build(read_config(str(folder / f"{name}.py")).model)
        nn.init.normal_(model.bbox_head.retina_cls.weight, std=2.0)
        torch.save({"state_dict": model.state_dict()}, folder / f"{name}.pth")
    (folder / "distil.py").write_text(DISTILLATION)
    return folder


@pytest.fixture(scope="module")
def evaluated(folder: Path, tools: Tools) -> Ended:
    options = ["--show-dir", "pictures", "--out", "metrics.json"]
    options += ["--cfg-options", "default_hooks.visualization.score_thr=0.0"]
    return tools.test("distil.py", "student.pth", *options, cwd=folder)


def test_the_table_of_all_measures_is_printed_and_drawing_changes_no_number(
    folder: Path, evaluated: Ended, tools: Tools
) -> None:
    assert "Detection on VOC2007 (3 images); 2 classes: disc, box" in evaluated.out + evaluated.err
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {"pascal_voc/mAP", "voc07/mAP", "voc12/mAP", "coco/mAP", "coco/AP50"} <= set(metrics)
    tools.test("student.py", "student.pth", "--out", "plain.json", cwd=folder)
    assert json.loads((folder / "plain.json").read_text()) == json.loads((folder / "metrics.json").read_text())


def test_pictures_show_ground_truth_and_detections(folder: Path, evaluated: Ended) -> None:
    files = sorted((folder / "pictures").iterdir())
    assert [file.name for file in files] == ["000001.jpg", "000002.jpg", "000003.jpg"]
    picture = cv2.imread(str(files[0]))
    assert picture.shape == (50, 2 * 60, 3)
    panels = [picture[:, i * 60 :][:, :60].astype(int) for i in range(2)]
    plain = cv2.imread(str(folder / "data/VOCdevkit/VOC2007/JPEGImages/000001.jpg")).astype(int)
    drawn = [(np.abs(panel - plain).max(axis=2) > 30).mean() for panel in panels]
    assert all(0.005 < share < 1 for share in drawn), drawn
    assert np.abs(panels[0] - panels[1]).max() > 30


def test_pictures_of_a_config_without_a_hook_that_draws(folder: Path, tools: Tools) -> None:
    nothing = "default_hooks = dict(_delete_=True)\nvisualizer = dict(_delete_=True, type='mmengine.Visualizer')\n"
    (folder / "bare.py").write_text(f"_base_ = 'student.py'\n{nothing}")
    tools.test("bare.py", "student.pth", "--show-dir", "bare", cwd=folder)
    assert len(list((folder / "bare").iterdir())) == 3


def test_augmentation_flips_what_is_in_an_image_and_neither_its_padding_nor_its_objects(
    folder: Path, tools: Tools
) -> None:
    text, pad = (folder / "student.py").read_text(), "dict(type='Pad', size_divisor=32)"
    (folder / "padded.py").write_text(text.replace(RESIZE, f"{RESIZE}, {pad}"))
    tools.test("padded.py", "student.pth", "--tta", "--out", "padded.pkl", "--work-dir", "padded", cwd=folder)
    (written,) = (folder / "padded").glob("*.py")
    *_, augmented = Config.fromfile(written).test_dataloader.dataset.pipeline
    kinds = [[step.type for step in steps] for steps in augmented.transforms]
    assert kinds == [["RandomFlip", "RandomFlip"], ["Pad"], ["LoadAnnotations"], ["PackDetInputs"]]
    with (folder / "padded.pkl").open("rb") as file:
        found = pickle.load(file)
    assert [each["gt_instances"]["bboxes"].tolist() for each in found] == 3 * [[[4, 4, 24, 24], [19, 9, 49, 39]]]
    (folder / "own.py").write_text("_base_ = 'student.py'\ntta_model = dict(type='mmdet.DetTTAModel')\n")
    line = tools.refused("test", "own.py", "student.pth", "--tta", cwd=folder)
    assert "model.type: there is no 'mmdet.DetTTAModel', did you mean 'DetTTAModel'?" in line


def test_what_cannot_be_drawn_is_one_line() -> None:
    with pytest.raises(ValueError, match="--show-dir draws single predictions: give it without --tta"):
        evaluate("student.py", "student.pth", show_dir="pictures", tta=True)


def test_a_config_without_test_data(folder: Path) -> None:
    (folder / "untested.py").write_text("_base_ = 'student.py'\ntest_dataloader = None\n")
    words = "untested.py: there is no test_dataloader: set it"
    assert_refused(words, evaluate, str(folder / "untested.py"), str(folder / "student.pth"), work_dir=str(folder))


def test_a_config_that_asks_for_one_voc_measure_gets_all(folder: Path) -> None:
    config = read_config(str(folder / "student.py"))
    for given, kinds in (
        ({"type": "VOCMetric"}, ["VOCMetric", "kd_mm.DetectionMetric"]),
        ([{"type": "mmdet.VOCMetric", "eval_mode": "area"}], ["mmdet.VOCMetric", "kd_mm.DetectionMetric"]),
        ({"type": "kd_mm.DetectionMetric"}, ["kd_mm.DetectionMetric"]),
        ([{"type": "VOCMetric"}, {"type": "kd_mm.DetectionMetric"}], ["VOCMetric", "kd_mm.DetectionMetric"]),
        ({"type": "Accuracy"}, ["Accuracy"]),
    ):
        config._cfg_dict["test_evaluator"] = given
        _add_detection_metric(config)
        evaluator = config.test_evaluator
        metrics = [evaluator] if isinstance(evaluator, dict) else evaluator
        assert [metric["type"] for metric in metrics] == kinds
