"""Detection configs: what they inherit, what they change, and that each pair builds."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine import Config
from mmengine.registry import MODELS, DefaultScope

import kd_mm  # noqa: F401 - registers everything

from .test_configs import CONFIGS, load, without_scope

FOLDER = "detection/voc"
LEAVES = sorted(path.stem for path in (CONFIGS / FOLDER).glob("[a-z]*.py"))
NAME = re.compile(
    r"(?:(?P<method>[a-z-]+)_)?(?P<detector>faster-rcnn|retinanet|gfl)_(?:(?P<teacher>[a-z0-9-]+)_)?"
    r"(?P<student>[a-z0-9]+)_fpn_1x_voc0712"
)
PAIRS = {
    ("faster-rcnn", "r101", "r50"),
    ("faster-rcnn", "r50", "r18"),
    ("faster-rcnn", "r50", "mobilenetv2"),
    ("retinanet", "r50", "r18"),
    ("gfl", "r101", "r50"),
}
METHODS = {"mtkd-ssr", "kd", "pkd", "cwd", "fgd"}
#: What the pair R50 to R18 has besides, by detector.
BOTH = {"student-friendly", "fitnets", "at", "vid", "ofd", "reviewkd", "mskd"}
MORE = {"faster-rcnn": {"kd-standardized", "dkd", "dist", *BOTH}, "retinanet": BOTH}
#: Configs with two teachers or with none.
ALONE = {"byot", "ema-teacher"}
OTHERS = {("multi-kd", "faster-rcnn", "r101-r50")}
OTHERS |= {(method, detector, None) for method in ALONE for detector in ("faster-rcnn", "retinanet")}
WEIGHTS = {"scd": 3.0, "srd": 0.5, "review": 0.15, "aux": 0.5}


def name_of(leaf: str) -> re.Match[str]:
    match = NAME.fullmatch(leaf)
    assert match, f"{leaf} is not [<method>_]<detector>_[<teacher>_]<student>_fpn_1x_voc0712"
    return match


def read(leaf: str) -> Config:
    return load(f"{FOLDER}/{leaf}.py")


def plain_of(detector: str, backbone: str) -> str:
    return f"{detector}_{backbone}_fpn_1x_voc0712"


PLAIN = [leaf for leaf in LEAVES if name_of(leaf)["method"] is None]
DISTILLED = [leaf for leaf in LEAVES if leaf not in PLAIN]


def bare(part: Any) -> Any:
    """Drop the marks of scope, and whatever says where files are read from (the default)."""
    if isinstance(part, dict):
        return {key: bare(value) for key, value in without_scope(part).items() if key != "backend_args"}
    return [bare(item) for item in part] if isinstance(part, (list, tuple)) else part


def test_every_pair_has_every_method() -> None:
    named = [name_of(leaf) for leaf in DISTILLED]
    others = [name for name in named if name.group("method", "detector", "teacher") in OTHERS]
    assert len(others) == len(OTHERS)
    named = [name for name in named if name not in others]
    assert {(name["detector"], name["teacher"], name["student"]) for name in named} == PAIRS
    for detector, teacher, student in PAIRS:
        pair = (detector, teacher, student)
        methods = {name["method"] for name in named if name.group("detector", "teacher", "student") == pair}
        more = MORE.get(detector, set()) if student == "r18" else set()
        assert methods == METHODS | more | ({"crosskd"} if detector != "faster-rcnn" else set())
        assert plain_of(detector, teacher) in PLAIN
        assert plain_of(detector, student) in PLAIN


@pytest.mark.parametrize("detector", ["faster-rcnn", "retinanet"])
def test_only_reader_metric_and_kept_checkpoints_differ_from_upstream(detector: str) -> None:
    """Upstream's own configs of Pascal VOC: same network, data, batches and schedule."""
    ours, theirs = (
        load(name)
        for name in (f"{FOLDER}/{plain_of(detector, 'r50')}.py", f"mmdet::pascal_voc/{detector}_r50_fpn_1x_voc0712.py")
    )
    for field in ("model", "train_cfg", "param_scheduler", "optim_wrapper", "auto_scale_lr", "default_scope"):
        assert bare(ours[field]) == bare(theirs[field])
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        renamed = repr(bare(ours[loader].to_dict())).replace("kd_mm.VOCDataset", "VOCDataset")
        assert eval(renamed) == bare(theirs[loader].to_dict())


@pytest.mark.parametrize("leaf", PLAIN)
def test_plain_configs_share_data_metric_and_schedule(leaf: str) -> None:
    config, first = read(leaf), read(PLAIN[0])
    for field in ("train_dataloader", "val_dataloader", "test_dataloader"):
        assert bare(config[field].to_dict()) == bare(first[field].to_dict())
    assert (
        without_scope(config.val_evaluator) == without_scope(config.test_evaluator) == {"type": "kd_mm.DetectionMetric"}
    )
    assert config.default_hooks.checkpoint.save_best == "voc07/mAP"
    optimizer = without_scope(config.optim_wrapper.optimizer)
    assert optimizer == {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
    assert (config.train_cfg.max_epochs, config.auto_scale_lr.base_batch_size) == (4, 16)
    (schedule,) = config.param_scheduler
    assert (schedule.type, schedule.milestones, schedule.gamma) == ("MultiStepLR", [3], 0.1)


@pytest.mark.parametrize("leaf", PLAIN)
def test_plain_configs_build_and_detect_twenty_classes(leaf: str) -> None:
    config = read(leaf)
    head = config.model.get("bbox_head") or config.model.roi_head.bbox_head
    assert head.num_classes == 20
    with DefaultScope.overwrite_default_scope("mmdet"), torch.no_grad():
        model = MODELS.build(copy.deepcopy(config.model)).eval()  # building changes the config
        levels = model.extract_feat(torch.zeros(1, 3, 64, 64))
    assert [level.shape[1] for level in levels] == [256] * 5


@pytest.mark.parametrize("leaf", DISTILLED)
def test_distillation_adds_a_teacher_and_changes_nothing_else(leaf: str) -> None:
    config, name = read(leaf), name_of(leaf)
    plain = read(plain_of(name["detector"], name["student"]))
    assert config.model.type == "kd_mm.Distiller"
    assert config.model.student == plain.model
    for field in (
        "train_dataloader",
        "val_dataloader",
        "val_evaluator",
        "param_scheduler",
        "train_cfg",
        "optim_wrapper",
    ):
        assert config[field] == plain[field]
    assert set(plain.default_hooks) < set(config.default_hooks)
    assert config.default_hooks.checkpoint.save_best == "voc07/mAP"
    teachers = config.model.teacher if isinstance(config.model.teacher, list) else [config.model.teacher]
    for backbone, teacher in zip(name["teacher"].split("-") if name["teacher"] else [], teachers, strict=False):
        assert teacher.config == f"kd_mm::{FOLDER}/{plain_of(name['detector'], backbone)}.py"
        assert teacher.checkpoint == f"checkpoints/voc/{name['detector']}_{backbone}.pth"
    assert len(teachers) == (2 if name["method"] == "multi-kd" else 1)
    assert (config.model.teacher is None) == (name["method"] in ALONE)


@pytest.mark.parametrize("leaf", [leaf for leaf in DISTILLED if leaf.startswith("mtkd-ssr")])
def test_mtkd_ssr_has_the_weights_of_its_table(leaf: str) -> None:
    recipe = read(leaf).model.recipe
    assert {name: loss.loss_weight for name, loss in recipe.losses.items()} == WEIGHTS
    assert recipe.losses.srd.temperature == recipe.losses.review.temperature == 1.0
    assert recipe.losses.review.schedule == {"type": "kd_mm.LinearRamp", "fraction": 0.1}
    assert recipe.exits == {"type": "kd_mm.SepConvExit", "norm": "GN"}
    assert recipe.teacher_exits.fraction == 1 / 3


def test_feature_losses_of_two_stages_have_their_own_weights() -> None:
    assert read("pkd_faster-rcnn_r50_r18_fpn_1x_voc0712").model.recipe.losses.pkd.loss_weight == 6.0
    assert read("pkd_retinanet_r50_r18_fpn_1x_voc0712").model.recipe.losses.pkd.loss_weight == 10.0
    assert read("fgd_faster-rcnn_r50_r18_fpn_1x_voc0712").model.recipe.losses.fgd.alpha == 5e-5
    assert read("fgd_gfl_r101_r50_fpn_1x_voc0712").model.recipe.losses.fgd.alpha == 1e-3


ONE_OF_A_KIND = re.compile(r"mtkd-ssr.*|(kd|fgd)_faster-rcnn_r50_r18.*|(crosskd|cwd|kd|pkd)_retinanet.*")
BUILT = [leaf for leaf in DISTILLED if ONE_OF_A_KIND.fullmatch(leaf)]


@pytest.mark.parametrize("leaf", BUILT)
def test_distillation_builds(leaf: str) -> None:
    """MTKD-SSR of every pair, and every other method of one."""
    model = copy.deepcopy(read(leaf).model)
    model.teacher = {"config": model.teacher.config, "random_weights": True}
    with DefaultScope.overwrite_default_scope("mmdet"):
        distiller = MODELS.build({**model, "input_size": 64})
    taps = [(student.tap, teacher.tap) for pairs in distiller.stage_pairs.values() for student, teacher in pairs]
    if leaf.startswith("mtkd-ssr"):
        # The ResNets' first stage is frozen; MobileNetV2's last is what it hands to the FPN.
        deepest = "backbone.conv2" if "mobilenetv2" in leaf else "backbone.layer4"
        assert len(taps) == (4 if "mobilenetv2" in leaf else 3)
        assert taps[-1] == (deepest, "backbone.layer4")
    else:
        levels = 5 if model.recipe.get("stage_source") == "neck" else 0
        assert taps == [(f"neck[{level}]", f"neck[{level}]") for level in range(levels)]


def test_pages_name_configs_that_exist() -> None:
    page = (CONFIGS / "detection" / "README.md").read_text()
    for named in re.findall(r"(?:configs/|kd_mm::)(detection/voc/[\w./-]+\.py)", page):
        assert (CONFIGS / named).is_file()
    assert Path(CONFIGS / FOLDER).is_dir()
