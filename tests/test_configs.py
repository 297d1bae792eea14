"""Every config parses; classification configs build, run, and say what the tables of the field say."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from .reading import each_base_once

CONFIGS = Path(__file__).parents[1] / "configs"
CLASSIFICATION = CONFIGS / "classification"
EVERY = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.py"))
LEAVES = [name for name in EVERY if name.startswith("classification/") and not Path(name).name.startswith("_")]
NAME = re.compile(
    r"(?:(?P<method>[a-z0-9-]+)_(?P<teacher>[a-z0-9-]+)_)?(?P<student>[a-z0-9-]+)_(?P<batch>(?:\d+x)?b\d+)_(?P<data>[a-z0-9-]+)"
)

# Folder: name in files, classes, training batch of one process, pixels, type and folder of the data set.
DATA = {
    "cifar10": ("cifar10", 10, 64, 32, "kd_mm.CIFAR10", "data/cifar10"),
    "cifar100": ("cifar100", 100, 64, 32, "kd_mm.CIFAR100", "data/cifar100"),
    "cub": ("cub", 200, 32, 224, "kd_mm.CUB", "data/CUB_200_2011"),
    "imagenet": ("imagenet", 1000, 32, 224, "kd_mm.ImageNet", "data/imagenet"),
    "tiny_imagenet": ("tiny-imagenet", 200, 64, 64, "kd_mm.TinyImageNet", "data/tiny-imagenet-200"),
}
# Folder: learning rate, weight decay, epochs, epochs at which the rate falls to a tenth.
SCHEDULES = {
    "cifar10": (0.05, 5e-4, 240, [150, 180, 210]),
    "cifar100": (0.05, 5e-4, 240, [150, 180, 210]),
    "cub": (0.01, 5e-4, 120, [60, 90, 110]),
    "imagenet": (0.1, 1e-4, 100, [30, 60, 90]),
    "tiny_imagenet": (0.05, 5e-4, 240, [150, 180, 210]),
}
# Folder: weights of scd, srd, review, aux; temperature; length of the ramp and of the training of the teacher's exits
# as fractions of the run; rate of the latter.
MTKD_SSR = {
    "cifar10": (6, 1, 0.3, 1, 4, 20 / 240, 100 / 240, 0.05),
    "cifar100": (6, 1, 0.3, 1, 4, 20 / 240, 100 / 240, 0.05),
    "cub": (6, 1, 0.3, 1, 4, 10 / 120, 60 / 120, 0.05),
    "imagenet": (6, 1, 0.3, 0.5, 1, 5 / 100, 20 / 100, 0.1),
    "tiny_imagenet": (6, 1, 0.3, 1, 4, 20 / 240, 60 / 240, 0.05),
}
MTKD_SSR_ON_CIFAR = ("classification/cifar10/mtkd-ssr_", "classification/cifar100/mtkd-ssr_")
UPSTREAM_TEACHERS = ["mmpretrain::resnet/resnet34_8xb32_in1k.py", "mmpretrain::resnet/resnet50_8xb32_in1k.py"]
BENCHMARK_PAIRS = {
    ("wrn-40-2", "wrn-16-2"),
    ("wrn-40-2", "wrn-40-1"),
    ("resnet56", "resnet20"),
    ("resnet110", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
    ("vgg13", "mobilenetv2"),
    ("resnet50", "mobilenetv2"),
    ("resnet50", "vgg8"),
    ("resnet32x4", "shufflenetv1"),
    ("resnet32x4", "shufflenetv2"),
    ("wrn-40-2", "shufflenetv1"),
}


def name_of(leaf: str) -> re.Match[str]:
    match = NAME.fullmatch(Path(leaf).stem)
    assert match, f"{leaf} is not <network>_<batch>_<data set> or <method>_<teacher>_<student>_<batch>_<data set>"
    return match


@cache
def load(name: str) -> Config:
    """Parse a config: of this repository by its path under configs/, of upstream by ``package::path``."""
    with each_base_once():
        return get_config(name) if "::" in name else Config.fromfile(CONFIGS / name)


def folder_of(leaf: str) -> str:
    return Path(leaf).parent.name


PLAIN = [leaf for leaf in LEAVES if name_of(leaf)["method"] is None]
IN_TABLES = [leaf for leaf in LEAVES if folder_of(leaf) in DATA]
PLAIN_IN_TABLES = [leaf for leaf in PLAIN if folder_of(leaf) in DATA]
DISTILLED = [leaf for leaf in IN_TABLES if name_of(leaf)["method"] is not None]


def teacher_of(leaf: str) -> str:
    return load(leaf).model.teacher.config.removeprefix("kd_mm::")


def without_scope(part: dict[str, Any]) -> dict[str, Any]:
    """Drop the mark that mmengine leaves in what comes from upstream's own config files."""
    return {key: value for key, value in part.items() if key != "_scope_"}


@pytest.mark.parametrize("name", EVERY)
def test_every_config_parses(name: str) -> None:
    assert len(load(name)) > 0


@pytest.mark.parametrize("leaf", IN_TABLES)
def test_names_follow_the_convention(leaf: str) -> None:
    name, folder = name_of(leaf), folder_of(leaf)
    data, _, batch, *_ = DATA[folder]
    assert name["data"] == data
    assert int(name["batch"].rpartition("b")[2]) == batch == load(leaf).train_dataloader.batch_size
    if name["method"]:
        student = f"{name['student']}_{name['batch']}_{data}.py"
        assert f"classification/{folder}/{student}" in PLAIN


@pytest.mark.parametrize("folder", ["classification", "reid", "detection"])
def test_plain_runs_resume_exactly_too(folder: str) -> None:
    for name in EVERY:
        if name.startswith(f"{folder}/") and not Path(name).name.startswith("_"):
            hooks = load(name).default_hooks
            assert hooks.checkpoint.type == "kd_mm.CheckpointHook", name
            assert hooks.exact_resume.type == "kd_mm.ExactResumeHook", name


@pytest.mark.parametrize("leaf", PLAIN)
def test_networks_build_and_answer(leaf: str) -> None:
    classes = load(leaf).data_preprocessor.num_classes
    pixels = 32 if folder_of(leaf).startswith("cifar") else 64
    model = MODELS.build(load(leaf).model).eval()
    with torch.no_grad():
        logits = model(torch.zeros(1, 3, pixels, pixels), mode="tensor")
    assert logits.shape == (1, classes)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("leaf", PLAIN_IN_TABLES)
def test_data_and_schedules_are_those_of_the_tables(leaf: str) -> None:
    config, folder = load(leaf), folder_of(leaf)
    _, classes, _, pixels, dataset, root = DATA[folder]
    rate, decay, epochs, milestones = SCHEDULES[folder]
    network = name_of(leaf)["student"]
    assert config.data_preprocessor.num_classes == config.model.head.num_classes == classes
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        assert (loader.dataset.type, loader.dataset.data_root) == (dataset, root)
    assert without_scope(config.val_evaluator) == {"type": "Accuracy", "topk": (1, 5)}
    crop = next(step for step in config.train_dataloader.dataset.pipeline if "Crop" in step.type)
    assert (crop.get("crop_size"), crop.get("scale")).count(pixels) == 1
    assert crop.get("padding") == {32: 4, 64: 8, 224: None}[pixels]
    assert any(step.type == "RandomFlip" for step in config.train_dataloader.dataset.pipeline)
    if folder == "imagenet" and network == "mobilenetv2":
        assert config.train_cfg.max_epochs == 300  # upstream's own recipe for this network
        return
    if folder.startswith("cifar") and network in ("mobilenetv2", "shufflenetv1", "shufflenetv2"):
        rate = 0.01
    optimizer = config.optim_wrapper.optimizer
    assert without_scope(optimizer) == {"type": "SGD", "lr": rate, "momentum": 0.9, "weight_decay": decay}
    assert config.train_cfg.max_epochs == epochs
    assert config.param_scheduler.milestones == milestones
    assert config.param_scheduler.gamma == 0.1


@pytest.mark.parametrize("leaf", DISTILLED)
def test_distillation_adds_a_teacher_and_changes_nothing_else(leaf: str) -> None:
    config, name, folder = load(leaf), name_of(leaf), folder_of(leaf)
    plain = load(f"classification/{folder}/{name['student']}_{name['batch']}_{name['data']}.py")
    assert config.model.type == "kd_mm.Distiller"
    assert config.model.student == plain.model
    for field in ("train_dataloader", "val_dataloader", "test_dataloader", "param_scheduler", "train_cfg"):
        assert config[field] == plain[field]
    assert config.optim_wrapper.optimizer == plain.optim_wrapper.optimizer
    assert set(plain.default_hooks) < set(config.default_hooks)
    assert Path(config.model.teacher.checkpoint) == Path("checkpoints", folder, f"{name['teacher']}.pth")
    teacher = teacher_of(leaf)
    assert Path(teacher).stem.startswith(f"{name['teacher']}_")
    assert teacher in [*UPSTREAM_TEACHERS, *PLAIN]
    assert load(teacher).model.head.num_classes == config.model.student.head.num_classes


@pytest.mark.parametrize("teacher", UPSTREAM_TEACHERS)
def test_teachers_of_upstream_build_and_answer(teacher: str) -> None:
    with DefaultScope.overwrite_default_scope("mmpretrain"), torch.no_grad():
        model = MODELS.build(load(teacher).model).eval()
        assert model(torch.zeros(1, 3, 64, 64), mode="tensor").shape == (1, 1000)


@pytest.mark.parametrize("leaf", [leaf for leaf in DISTILLED if name_of(leaf)["method"] == "mtkd-ssr"])
def test_mtkd_ssr_has_the_weights_of_its_table(leaf: str) -> None:
    recipe = load(leaf).model.recipe
    scd, srd, review, aux, temperature, ramp, length, rate = MTKD_SSR[folder_of(leaf)]
    weights = {name: loss.loss_weight for name, loss in recipe.losses.items()}
    assert weights == {"scd": scd, "srd": srd, "review": review, "aux": aux}
    assert recipe.losses.srd.temperature == recipe.losses.review.temperature == temperature
    assert recipe.losses.review.schedule.fraction == pytest.approx(ramp)
    assert recipe.teacher_exits.fraction == pytest.approx(length)
    assert recipe.teacher_exits.lr == rate
    assert 0 < min(recipe.teacher_exits.milestones) < max(recipe.teacher_exits.milestones) < 1


@pytest.mark.parametrize("leaf", [leaf for leaf in DISTILLED if leaf.startswith(MTKD_SSR_ON_CIFAR)])
def test_cifar_pairs_match_three_stages(leaf: str) -> None:
    model = load(leaf).model
    four_stages = {"kd_mm.CIFARVGG", "kd_mm.CIFARMobileNetV2"}
    named = ["backbone.layer2", "backbone.layer3", "backbone.layer4"]
    assert model.get("stages") == (named if model.student.backbone.type in four_stages else None)


def test_every_pair_of_the_benchmark_is_there_with_both_methods() -> None:
    leaves = [name_of(leaf) for leaf in DISTILLED if folder_of(leaf) == "cifar100"]
    for method in ("kd", "mtkd-ssr"):
        pairs = {(leaf["teacher"], leaf["student"]) for leaf in leaves if leaf["method"] == method}
        assert pairs >= BENCHMARK_PAIRS
