"""Every shipped recipe with every kind of student: it trains, or one line says why not and what to take instead."""

import copy
import re
from typing import Any

import pytest
import torch
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import DefaultScope

from kd_mm.apis.recipes import compose, recipe_names
from kd_mm.distillers import EMATeacher
from kd_mm.distillers.loss_monitor import LossMonitor
from kd_mm.losses import Progress
from kd_mm.preparation.hook import skip_preparation
from kd_mm.registry import MODELS
from tests.devices import DEVICES

from ..helpers.errors import assert_refused
from . import detectors
from .conftest import CLASSES, batch, classifier, total
from .test_reid import PEOPLE
from .test_reid import network as person

SAMPLES = 40
ALONE = ("byot", "ema_teacher", "exits")
TEAMS = ("multi_kd", "ca_mkd", "gpac")
EMBEDDING = "it reads one embedding an image, and a detector has none; take a loss on maps (recipes pkd, cwd, fgd)"
POSITIONS = "compares one row of logits an image or region, this detector predicts at"
FOR_DETECTORS = "is for detectors alone; for this model take one of: at, "

#: What refuses, and a part of the line that says so; all other recipes train.
DETECTION = {
    "ca_mkd": "rate the teachers by the label of an image; take the recipe multi_kd",
    "cosine": EMBEDDING,
    "crd": "it draws images of other classes, so it belongs to classification and re-identification; for detectors",
    "gpac": "in detection an image has no single one; take the recipe multi_kd",
    "mag": EMBEDDING,
    "mag_features": EMBEDDING,
    "mas": EMBEDDING,
    "mas_features": EMBEDDING,
    "mskd_final": "a detector classifies boxes, a stage the image; take target='same_stage' (recipes mskd, mtkd_ssr)",
    "rkd": EMBEDDING,
    "wkd": "for detectors take kd_mm.WKDFeatureLoss (recipe wkd_features)",
    "sp": "it compares the images of a batch with each other, and a detector gets a few at a time; take a loss on maps",
}
REFUSED = {
    "classification": dict.fromkeys(("crosskd", "detection", "fgd", "ld", "mgd", "mtkd_ssr_images"), FOR_DETECTORS),
    "reid": dict.fromkeys(("crosskd", "detection", "fgd", "ld", "mgd", "mtkd_ssr_images"), FOR_DETECTORS),
    "two_stage": {**DETECTION, "crosskd": "FasterRCNN has no dense head of two towers"},
    "dense": {
        **DETECTION,
        "dist": POSITIONS,
        "dkd": POSITIONS,
        "kd_standardized": POSITIONS,
        "multi_kd": "use kd_mm.DetKDLoss (recipe kd), one for each teacher (teacher=...)",
    },
}
RECIPES = recipe_names("detection", "reid")


def dense(width: int) -> Any:
    full = detectors.retina(width)
    full.bbox_head.stacked_convs = 4
    return full


def short(width: int) -> Any:
    """A detector of three levels, whose towers are one convolution each."""
    full = dense(width)
    full.neck.num_outs = 3
    full.bbox_head.stacked_convs = 1
    full.bbox_head.anchor_generator.strides = [8, 16, 32]
    return full


def networks(kind: str) -> tuple[Any, Any]:
    """Student and teacher of a kind, small."""
    if kind == "classification":
        return classifier(), classifier(14, width=16)
    if kind == "reid":
        return person(), person(width=16, depth=14)
    network = {"dense": dense, "short": short, "two_stage": detectors.faster}[kind]
    return network(8), network(12)


def distiller(kind: str, name: str) -> Any:
    """What the command line would build, with teachers that are not read from files."""
    student, teacher = networks(kind)
    scope = "mmpretrain" if kind in ("classification", "reid") else "mmdet"
    count = 2 if name in TEAMS else 1
    files = ([f"teacher.{end}"] * count for end in ("py", "pth")) if name not in ALONE else (None, None)
    plain = Config({"model": copy.deepcopy(student), "default_scope": scope})
    model = compose(plain, name, *files).model
    if model.teacher:
        untrained = {"config": {"model": teacher} if kind == "reid" else teacher, "random_weights": True}
        model.teacher = [copy.deepcopy(untrained) for _ in range(count)] if count > 1 else untrained
    for loss in model.recipe.losses.values():
        if loss.type == "kd_mm.CRDLoss":
            loss.update(num_negatives=16, num_samples=SAMPLES)
    register_all_modules(init_default_scope=False)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build({**model, "input_size": detectors.SIZE if scope == "mmdet" else 16})


def prepare(model: Any) -> None:
    """Leave out what hooks do before training: exits, codes and probes of the teachers count as trained."""
    skip_preparation(model)
    for teacher in model.teachers.values():
        if isinstance(teacher, EMATeacher):
            teacher.start(model.student, model.objective.exits)


def data_of(kind: str) -> dict[str, Any]:
    if kind not in ("classification", "reid"):
        return detectors.batch()
    data = batch(6, PEOPLE if kind == "reid" else CLASSES)
    for index, sample in enumerate(data["data_samples"]):
        sample.set_metainfo({"sample_idx": index})
    return data


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", RECIPES)
def test_it_trains_every_kind_of_student_or_says_why_not_and_what_to_take(name: str, device: str) -> None:
    for kind, refused in REFUSED.items():
        if name in refused:
            assert_refused(re.escape(refused[name]), distiller, kind, name)
        else:
            train_a_step(kind, name, device)


@pytest.mark.parametrize(
    "name", ["crosskd", "cwd", "detection", "fgd", "fitnets", "ld", "mgd", "pkd", "pkd+kd", "reviewkd"]
)
def test_it_trains_detectors_of_any_number_of_levels(name: str) -> None:
    model = train_a_step("short", name)
    stages = {len(pairs) for pairs in model.stage_pairs.values() if pairs}
    assert stages == (set() if name in ("crosskd", "ld") else {3})


def train_a_step(kind: str, name: str, device: str = "cpu") -> Any:
    """Run one checked training step and return the model."""
    model = distiller(kind, name).to(device).train()
    prepare(model)
    model.check_next_step = True  # each loss is finite and reaches the student
    model.progress = Progress(epoch=1, max_epochs=2)
    torch.manual_seed(3)
    losses = model(**model.data_preprocessor(data_of(kind), True), mode="loss")
    assert not model.check_next_step
    assert {f"loss_{term}" for term in model.losses} <= set(losses)
    for term, loss in model.losses.items():
        torch.testing.assert_close(losses[f"loss_{term}"].detach(), loss.weight(model.progress) * losses[term])
    model.monitor = LossMonitor()  # as in a run: all terms are on one device
    assert set(model.losses) <= set(model.parse_losses(losses)[1])
    total(losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in model.distill.parameters() if p.requires_grad)
    assert all(p.grad is None for teacher in model.teachers.values() for p in teacher.model.parameters())
    return model
