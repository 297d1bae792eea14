"""Re-identification configs: what they say, what they inherit, and that each pair builds."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from mmengine.registry import DefaultScope

import kd_mm  # noqa: F401 - registers everything
from kd_mm.registry import MODELS

from .test_configs import CONFIGS, load, without_scope

FOLDER = "reid/market1501"
LEAVES = sorted(path.stem for path in (CONFIGS / FOLDER).glob("[a-z]*.py"))
NAME = re.compile(
    r"(?:(?P<method>[a-z-]+)_(?:(?P<teacher>[a-z0-9-]+)_)?)?(?P<student>[a-z]+[0-9]+|mobilenetv2|osnet)(?P<init>_scratch)?"
    r"_b64_market1501"
)
PAIRS = {("resnet101", "resnet50"), ("resnet50", "resnet18"), ("resnet50", "mobilenetv2"), ("resnet50", "osnet")}
METHODS = {"mtkd-ssr", "kd", "rkd", "cosine"}
#: What the pair ResNet-50 to ResNet-18 has besides, what has two teachers, and what has none.
MORE = {"kd-standardized", "dkd", "dist", "student-friendly", "fitnets", "at", "sp", "vid", "ofd", "reviewkd", "crd"}
MORE |= {"cwd", "pkd", "mskd", "mskd-final", "mag", "mas"}
TEAMS, ALONE = {"multi-kd", "ca-mkd", "gpac"}, {"byot", "ema-teacher"}
NETWORKS = {"resnet101": 2048, "resnet50": 2048, "resnet18": 512, "mobilenetv2": 1280, "osnet": 512}


def name_of(leaf: str) -> re.Match[str]:
    match = NAME.fullmatch(leaf)
    assert match, f"{leaf} is not [<method>_<teacher>_]<student>[_scratch]_b64_market1501"
    return match


def read(leaf: str) -> Any:
    return load(f"{FOLDER}/{leaf}.py")


PLAIN = [leaf for leaf in LEAVES if name_of(leaf)["method"] is None]
DISTILLED = [leaf for leaf in LEAVES if leaf not in PLAIN]


def weightless(model: Any) -> Any:
    """A model config that reads no checkpoint."""
    model = copy.deepcopy(model.to_dict())
    for part in ("backbone", "neck"):
        model[part].pop("init_cfg", None)
    return model


def test_every_network_with_and_without_initialisation_and_every_pair_with_every_method() -> None:
    plain = {(name_of(leaf)["student"], bool(name_of(leaf)["init"])) for leaf in PLAIN}
    assert plain == {(network, scratch) for network in NETWORKS for scratch in (True, False)}
    found = {(name_of(leaf)["method"], name_of(leaf)["teacher"], name_of(leaf)["student"]) for leaf in DISTILLED}
    more = {(method, "resnet50", "resnet18") for method in MORE} | {(method, None, "resnet18") for method in ALONE}
    more |= {(method, "resnet101-resnet50", "resnet18") for method in TEAMS}
    assert found == {(method, *pair) for method in METHODS for pair in PAIRS} | more


@pytest.mark.parametrize("leaf", PLAIN)
def test_the_strong_baseline(leaf: str) -> None:
    config, network, scratch = read(leaf), name_of(leaf)["student"], name_of(leaf)["init"]
    model = config.model
    stride = None if network == "osnet" else 1  # OSNet's is 16 as published
    assert (model.type, model.last_stride, model.head.type) == ("kd_mm.ReIDModel", stride, "kd_mm.BNNeckHead")
    assert (model.head.num_classes, model.head.in_channels) == (751, NETWORKS[network])
    assert (model.head.loss.label_smooth_val, model.head.metric_losses.triplet.margin) == (0.1, 0.3)
    init = model.backbone.get("init_cfg")
    assert (init is None) == bool(scratch)
    assert scratch or init.checkpoint == f"checkpoints/imagenet/{network}.pth"
    train, test = config.train_dataloader, config.test_dataloader
    assert train.batch_size == train.sampler.num_identities * train.sampler.num_images == 64
    assert (train.sampler.type, train.sampler.num_images) == ("kd_mm.IdentitySampler", 4)
    steps = {step.type: without_scope(step) for step in train.dataset.pipeline}
    assert steps["RandomCrop"] == {"type": "RandomCrop", "crop_size": (256, 128), "padding": 10}
    assert steps["RandomErasing"]["erase_prob"] == steps["RandomFlip"]["prob"] == 0.5
    assert [step.type for step in test.dataset.pipeline] == ["LoadImageFromFile", "Resize", "PackInputs"]
    assert (train.dataset.split, test.dataset.split) == ("train", "test")
    assert config.test_evaluator.type == "kd_mm.ReIDMetric"
    assert without_scope(config.optim_wrapper.optimizer) == {"type": "Adam", "lr": 3.5e-4, "weight_decay": 5e-4}
    warm_up, steps_down = config.param_scheduler
    assert (warm_up.type, warm_up.end, warm_up.start_factor) == ("LinearLR", 10, 0.01)
    assert (steps_down.milestones, steps_down.gamma, config.train_cfg.max_epochs) == ([40, 70], 0.1, 120)
    assert config.auto_scale_lr.base_batch_size == 64


@pytest.mark.parametrize("leaf", [leaf for leaf in PLAIN if name_of(leaf)["init"]])
def test_networks_build_and_embed(leaf: str) -> None:
    config = read(leaf)
    with DefaultScope.overwrite_default_scope("mmpretrain"), torch.no_grad():
        model = MODELS.build(weightless(config.model)).eval()
        maps = model.backbone(torch.zeros(1, 3, 64, 32))[-1]
        assert model(torch.zeros(1, 3, 64, 32)).shape == (1, config.model.head.in_channels)
    assert maps.shape[2:] == (4, 2)


@pytest.mark.parametrize("leaf", DISTILLED)
def test_distillation_adds_a_teacher_and_changes_nothing_else(leaf: str) -> None:
    config, name = read(leaf), name_of(leaf)
    plain = read(f"{name['student']}_b64_market1501")
    assert config.model.type == "kd_mm.Distiller"
    assert config.model.student == plain.model
    for field in ("train_dataloader", "test_dataloader", "param_scheduler", "train_cfg", "optim_wrapper"):
        assert config[field] == plain[field]
    assert set(plain.default_hooks) < set(config.default_hooks)
    teachers = config.model.teacher if isinstance(config.model.teacher, list) else [config.model.teacher]
    for network, teacher in zip(name["teacher"].split("-") if name["teacher"] else [], teachers, strict=False):
        assert teacher.config == f"kd_mm::{FOLDER}/{network}_b64_market1501.py"
        assert teacher.checkpoint == f"checkpoints/market1501/{network}.pth"
    assert len(teachers) == (2 if name["method"] in TEAMS else 1)
    assert (config.model.teacher is None) == (name["method"] in ALONE)


@pytest.mark.parametrize("leaf", [leaf for leaf in DISTILLED if name_of(leaf)["method"] == "mtkd-ssr"])
def test_mtkd_ssr_has_the_weights_of_its_table(leaf: str) -> None:
    config = read(leaf)
    recipe, whole = config.model.recipe, config.train_cfg.max_epochs
    weights = {name: loss.loss_weight for name, loss in recipe.losses.items()}
    assert weights == {"scd": 6.0, "srd": 1.0, "review": 0.3, "aux": 0.5}
    assert recipe.losses.srd.temperature == recipe.losses.review.temperature == 4.0
    assert recipe.losses.review.schedule.fraction * whole == pytest.approx(10)
    assert recipe.exits.type == "kd_mm.BNNeckExit"
    assert recipe.teacher_exits.fraction * whole == 60


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("student", ["resnet18", "mobilenetv2", "osnet"])
def test_pairs_build(method: str, student: str) -> None:
    config = read(f"{method}_resnet50_{student}_b64_market1501")
    teacher = {"config": {"model": weightless(read("resnet18_b64_market1501").model)}, "random_weights": True}
    teacher["config"]["data_preprocessor"] = config.data_preprocessor
    model = {**config.model.to_dict(), "student": weightless(config.model.student), "teacher": teacher}
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        distiller = MODELS.build({**model, "input_size": (64, 32), "data_preprocessor": config.data_preprocessor})
    pairs = distiller.stage_pairs.get("teacher", [])
    strides = [(int(own.stride), int(theirs.stride)) for own, theirs in pairs]
    last = [(16, 16)] if student == "osnet" else [(16, 16), (16, 16)]
    assert strides == ([(4, 4), (8, 8), *last] if method == "mtkd-ssr" else [])
