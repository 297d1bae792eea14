"""Without distillation's share a run is the plain run, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ..helpers.compare import differences
from ..helpers.tools import Tools
from ..helpers.world import World

#: Everything that draws random numbers: augmentation, mixing of batches, dropout.
RANDOM = """
_base_ = "plain.py"
model = dict(
    head=dict(
        _delete_=True,
        type="StackedLinearClsHead",
        num_classes=3,
        in_channels=32,
        mid_channels=[16],
        dropout_rate=0.5,
        loss=dict(type="CrossEntropyLoss", use_soft=True),
        topk=(1,),
    ),
    train_cfg=dict(augments=dict(type="Mixup", alpha=0.8)),
)
custom_hooks = [dict(type="EMAHook", momentum=0.1)]
"""
ZERO = ", ".join(f"{name}=dict(loss_weight=0.0)" for name in ("aux", "scd", "srd", "review"))
OFF = 'type="PiecewiseConstant", levels=[0.0], bounds=[]'
NEVER = ", ".join(
    [
        *(f"{name}=dict(schedule=dict({OFF}))" for name in ("aux", "scd", "srd")),
        f"review=dict(schedule=dict(_delete_=True, {OFF}))",
    ]
)


@pytest.fixture(scope="module")
def plain(tools: Tools, world: World) -> Path:
    config = world.write("noisy.py", RANDOM)
    tools.train(config, "--work-dir", world.folder / "noisy")
    return world.folder / "noisy" / "epoch_2.pth"


@pytest.mark.parametrize(
    ("recipe", "losses"),
    [
        ("mtkd_ssr", ZERO),
        ("mtkd_ssr", NEVER),
        ("ema_teacher", "ema=dict(loss_weight=0.0)"),
        ("ema_teacher", f"ema=dict(schedule=dict(_delete_=True, {OFF}))"),
    ],
)
def test_the_student_is_that_of_the_plain_run(tools, world, plain, tmp_path, recipe, losses) -> None:
    changes = f"model = dict(recipe=dict(losses=dict({losses})))"
    config = world.distil("zero.py", recipe, plain="noisy.py", changes=changes)
    ended = tools.train(config, "--work-dir", tmp_path)
    expected = torch.load(plain, weights_only=False)
    found = torch.load(tmp_path / "epoch_2.pth", weights_only=False)
    for part in ("state_dict", "ema_state_dict"):
        own = {key: value for key, value in found[part].items() if "distill." not in key}
        assert differences(dict(expected[part]), own) == []
    # Only where a schedule is at zero do exits and moving teachers exist, without any effect.
    built = any(key.startswith("distill.") for key in found["state_dict"])
    assert built == ("schedule" in losses)
    assert ("training the exits" in ended.out) == (built and recipe == "mtkd_ssr")


def test_the_plain_run_is_random_enough_to_tell(tools: Tools, world: World, plain: Path, tmp_path: Path) -> None:
    config = world.folder / "noisy.py"
    tools.train(config, "--work-dir", tmp_path, "--cfg-options", "randomness.seed=4")
    expected = torch.load(plain, weights_only=False)["state_dict"]
    found = torch.load(tmp_path / "epoch_2.pth", weights_only=False)["state_dict"]
    assert len(differences(dict(expected), dict(found))) > 30
