"""Small re-identification configs: retrieval over held-out classes of CIFAR-100, and the drawn people."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample

import kd_mm  # noqa: F401 - registers everything
from kd_mm.registry import MODELS

from .test_configs import load

RETRIEVAL = "reid/cifar100_retrieval"
PAIR = "resnet8_resnet8-slim_b64_cifar100-retrieval"
# Name of the distillation, of its student and of its teacher; pixels.
DISTILLED = [
    *(
        (f"{RETRIEVAL}/{method}_{PAIR}", f"{RETRIEVAL}/resnet8-slim_b64_cifar100-retrieval", "resnet8", (32, 32))
        for method in ("kd", "rkd", "mtkd-ssr")
    ),
    *(
        (f"quickstart/{method}_teacher_student_people", "quickstart/student_people", "teacher_people", (64, 32))
        for method in ("kd", "rkd", "mtkd-ssr")
    ),
]


@pytest.mark.parametrize(("leaf", "plain", "teacher", "size"), DISTILLED)
def test_a_step_of_each_distillation(leaf, plain, teacher, size):
    config, alone = load(f"{leaf}.py"), load(f"{plain}.py")
    assert config.model.student == alone.model
    assert config.train_cfg == alone.train_cfg
    assert teacher in config.model.teacher.config
    theirs = load(config.model.teacher.config.removeprefix("kd_mm::"))
    assert theirs.train_dataloader.dataset == config.train_dataloader.dataset
    given = {"config": {"model": theirs.model, "data_preprocessor": theirs.data_preprocessor}, "random_weights": True}
    recipe = config.model.recipe.to_dict()
    recipe.get("teacher_exits", {}).update(mode="online")
    model = {**config.model.to_dict(), "teacher": given, "recipe": recipe, "input_size": size}
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        distiller = MODELS.build({**model, "data_preprocessor": config.data_preprocessor})
    samples = [DataSample().set_gt_label(index // 2) for index in range(8)]
    batch = {"inputs": [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in samples], "data_samples": samples}
    losses = distiller(**distiller.data_preprocessor(batch, True), mode="loss")
    total, _ = distiller.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    assert next(distiller.student.backbone.parameters()).grad is not None


@pytest.mark.parametrize("folder", [RETRIEVAL, "quickstart"])
def test_training_never_sees_the_test(folder):
    for leaf, *_ in DISTILLED:
        if leaf.startswith(folder):
            config = load(f"{leaf}.py")
            splits = [config[f"{part}_dataloader"].dataset.split for part in ("train", "val", "test")]
            assert splits == ["train", "val", "test"]
