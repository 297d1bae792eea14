"""Weights in channels_last: the same training up to rounding, and a killed one goes on bit by bit."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from kd_mm.hooks import ChannelsLastHook

from ..helpers.compare import differences
from ..helpers.tools import KILLED
from ..helpers.toy_training import trace

HOOK = {"hooks": [{"type": "kd_mm.ChannelsLastHook"}]}
#: Goes through weights and its own state as they lie in memory, so both have to lie alike.
FUSED = {"optim_wrapper": {"optimizer": {"type": "AdamW", "lr": 0.01, "fused": True}}}
JOB = {"seed": 3, "runner": FUSED, "widths": [16, 16, 16, 16]}


def losses(work_dir: Path) -> list[float]:
    return [loss for _, _, loss in trace(work_dir)]


@pytest.fixture(scope="module")
def reference(trainings, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("reference")
    return work_dir, trainings.finish(work_dir, **JOB, **HOOK)


def test_it_trains_as_without(trainings, reference, tmp_path):
    work_dir, state = reference
    weights = [value for key, value in state["model"].items() if key.endswith("conv1.weight") and value.dim() == 4]
    assert weights
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in weights)
    plain = trainings.finish(tmp_path, **JOB)
    assert losses(work_dir) == pytest.approx(losses(tmp_path), rel=1e-4)
    assert differences(plain, state) != []  # the hook did something


def test_a_killed_training_goes_on_bit_by_bit(trainings, reference, tmp_path):
    _, expected = reference
    job = {**JOB, **HOOK, "checkpoint": {"interval": 2, "by_epoch": False}}
    assert trainings.run(tmp_path, **job, kill_before=7) == KILLED
    assert differences(expected, trainings.finish(tmp_path, **job, resume=True)) == []


def test_a_training_without_it_goes_on_with_it(trainings, reference, tmp_path):
    work_dir, _ = reference
    job = {**JOB, "checkpoint": {"interval": 2, "by_epoch": False}}
    assert trainings.run(tmp_path, **job, kill_before=7) == KILLED
    trainings.finish(tmp_path, **job, **HOOK, resume=True)
    assert losses(tmp_path)[-4:] == pytest.approx(losses(work_dir)[-4:], rel=1e-3)


@pytest.mark.parametrize(("channels", "stride", "refused"), [(8, 2, True), (16, 2, False), (8, 1, False)])
def test_a_convolution_that_aborts_is_refused(channels: int, stride: int, refused: bool) -> None:
    model = nn.Sequential(nn.Conv2d(channels, 4, 1, stride))
    runner = SimpleNamespace(model=model, optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    with pytest.raises(ValueError, match="0 is a 1x1 convolution") if refused else nullcontext():
        ChannelsLastHook().before_train(runner)
