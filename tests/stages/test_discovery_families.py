"""Stage discovery on the families that upstream ships: the smallest variant of each, built from its config."""

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

import kd_mm  # noqa: F401
from kd_mm.stages.discovery import discover_stages
from kd_mm.stages.recorder import Recorder

from ..helpers.classifier_families import CONSTANT, PYRAMIDS, load

#: Tried in every run: the kinds of layout that discovery tells apart. The others run by `make test-families`.
SAMPLE = (
    "mobilenet-v3",
    "repvgg-A0_deploy",
    "poolformer",
    "swinv2",
    "deit-tiny-distilled",
    "xcit",
)


def cases(families):
    """Return one parameter set a family, marked unless it is in the sample."""
    rest = pytest.mark.families
    return [
        pytest.param(*case, id=case[0], marks=() if any(name in case[0] for name in SAMPLE) else rest)
        for case in families
    ]


def build(config, changes=None):
    model = load(config).model
    model.backbone.update(changes or {})
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(model)


def check(model, stages, side):
    """Every tap exists and gives, in a fresh forward pass, the map that the stage announces."""
    assert [stage.index for stage in stages] == list(range(1, len(stages) + 1))
    strides = [stage.stride for stage in stages]
    assert strides == sorted(strides)
    assert len({stage.tap for stage in stages}) == len(stages)
    recorder = Recorder(model, [stage.tap for stage in stages])
    with recorder, torch.no_grad():
        model.eval().backbone(torch.rand(3, 3, side, side))
    recorder.calibrate()
    features = recorder.take()
    for stage in stages:
        mapped = stage.to_map(features[stage.tap])
        assert mapped.shape == (3, stage.channels, stage.height, stage.width)
        assert stage.stride == side / stage.height
        assert stage.params > 0
        assert not stage.post_relu or mapped.min() >= 0
    body = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert 0.8 * body < sum(stage.params for stage in stages) <= body


@pytest.mark.parametrize(("config", "side", "changes"), cases(PYRAMIDS))
def test_pyramids(config, side, changes):
    model = build(config, changes)
    stages = discover_stages(model, torch.zeros(1, 3, side, side))
    assert len(stages) >= 3
    check(model, stages, side)
    # Each resolution appears once and the last stage is as coarse as the network gets.
    assert len({stage.height for stage in stages}) == len(stages)
    names = [name for name, _ in model.backbone.named_modules()]
    deepest = names.index(stages[-1].tap.removeprefix("backbone.").partition("[")[0])
    assert all(deepest > names.index(stage.tap.removeprefix("backbone.").partition("[")[0]) for stage in stages[:-1])


@pytest.mark.parametrize(("config", "side", "changes", "extra"), cases(CONSTANT))
def test_constant_resolution(config, side, changes, extra):
    model = build(config, changes)
    stages = discover_stages(model, torch.zeros(1, 3, side, side))
    assert len(stages) == 4
    assert {(stage.extra_tokens, stage.height) for stage in stages} == {(extra, stages[0].height)}
    check(model, stages, side)
