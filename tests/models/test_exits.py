"""Exits and connectors: shapes, widths, initialisation, errors, and the modes of a teacher's exits."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn

from kd_mm.losses import Observation, PKDLoss
from kd_mm.models import BNNeckExit, CellExit
from kd_mm.models.exits import ConvConnector, SepConvExit, average_pool
from kd_mm.stages import Stage

from ..distillers.conftest import batch, build, classifier, recipe
from ..helpers.errors import assert_refused
from ..helpers.waves import wave

STAGE = Stage(index=1, tap="a", layout="map", channels=6, height=8, width=8, stride=2, post_relu=True)


@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_exits_go_from_a_stage_to_logits(norm: str) -> None:
    exit_ = SepConvExit(widths=[8, 12, 20], num_classes=7, norm=norm)
    exit_.init_weights()
    out = exit_(torch.randn(3, 8, 16, 16))
    assert out.shape == (3, 7)
    norms = [m for m in exit_.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
    assert all(isinstance(m, nn.BatchNorm2d) == (norm == "BN") for m in norms)
    assert exit_.fc.in_features == 20


def test_separable_exit_by_hand() -> None:
    exit_ = SepConvExit(widths=[8, 16, 12], num_classes=3)
    convs = [
        (m.kernel_size[0], m.stride[0], m.groups, m.out_channels) for m in exit_.modules() if isinstance(m, nn.Conv2d)
    ]
    assert convs == [(3, 2, 8, 8), (1, 1, 1, 12), (3, 1, 12, 12), (1, 1, 1, 12)]
    x = torch.arange(15.0).view(1, 1, 3, 5)
    assert average_pool(2)(x).tolist() == [[[[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]]]]
    assert average_pool(4)(x[..., :3, :3]).tolist() == [[[[6.0]]]]
    exit_ = SepConvExit([1, 1, 1], 1, strides=[4, 8, 16]).eval()
    for module in exit_.modules():
        if isinstance(module, nn.Conv2d):  # the cell in the middle of each window
            nn.init.dirac_(module.weight)
    x = torch.arange(64.0).view(1, 1, 8, 8)
    # Means of 2 x 2 windows at every second row and column: 4.5, 8.5, 36.5, 40.5. Two norms with variance 1.
    torch.testing.assert_close(exit_.embed(x), torch.tensor([[22.5 / (1 + 1e-5)]]))
    exit_, x = SepConvExit([6], 3, strides=[32]), torch.randn(2, 6, 5, 4)
    torch.testing.assert_close(exit_(x), exit_.fc(x.mean((2, 3))))


def test_separable_exit_has_at_most_hidden_channels() -> None:
    for hidden, width in (({}, 512), ({"hidden": None}, 600), ({"hidden": 7}, 7)):
        exit_ = SepConvExit([8, 600], 3, **hidden)
        assert exit_.fc.in_features == width
        assert exit_.embed(torch.randn(2, 8, 4, 4)).shape == (2, width)
        assert BNNeckExit([8, 600], 3, **hidden)(torch.randn(2, 8, 4, 4)).shape == (2, 3)


def test_separable_exit_ends_at_the_last_stages_resolution() -> None:
    for strides in (
        [4, 8, 16, 32],  # convolutional networks and Swin
        [1, 2, 4],  # CIFAR networks
        [16, 16, 16],  # plain transformers
        [4, 8, 16, 16],  # a last stage without a stride
        [4, 8, 8, 8],  # dilated
        [8, 16, 32, 64, 128],  # the levels of a neck,
    ):
        for size, i in itertools.product((128, 97), range(len(strides))):
            width, last = math.ceil(size / strides[i]), math.ceil(size / strides[-1])
            exit_ = SepConvExit([8] * (len(strides) - i), 3, strides=strides[i:])
            read: list[int] = []
            for module in exit_.body:
                if isinstance(module, nn.Conv2d):
                    module.register_forward_pre_hook(lambda _m, args, read=read: read.append(args[0].shape[-1]))
            assert exit_.body(torch.randn(2, 8, width, width)).shape[2:] == (last, last)
            assert all(cells <= 2 * last for cells in read)


@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_gradient_of_the_separable_exit(norm: str) -> None:
    for strides in ([4, 8, 16], [16, 16, 16]):
        exit_ = SepConvExit([2, 3, 4], 3, norm=norm, strides=strides).double()
        exit_.init_weights()
        x = wave(2, 2, 7, 5, pace=0.9).requires_grad_()
        assert torch.autograd.gradcheck(exit_, (x,))


def test_wrong_options_and_recipes() -> None:
    assert_refused("exit norm='LN' is unknown; choose one of 'BN', 'GN'", SepConvExit, [8], 3, norm="LN")
    with pytest.raises(ValueError, match="policy='never' is unknown; choose one of 'always', 'on_mismatch'"):
        ConvConnector(STAGE, STAGE, policy="never")
    for changes, message in (
        ({"exists": {}}, "did you mean 'exits'"),
        ({"teacher_exits": {"mode": "frozen"}}, "choose one of 'auto', 'pretrained', 'joint', 'online'"),
        ({"losses.my_loss": {"type": "kd_mm.KDLoss"}}, "must not contain 'loss'"),
        ({"losses.srd.stages": [4]}, r"stages=\[4\], but the matched stages are 1\.\.3"),
        ({"losses.srd.stages": ["layer1"]}, r"stages=\['layer1'\], but the matched stages are 1\.\.3"),
    ):
        assert_refused(message, build, recipe=recipe(**changes))


def test_connector() -> None:
    for teacher_channels, policy, act, relu, identity in (
        (6, "always", "auto", True, False),
        (9, "always", "none", False, False),
        (6, "on_mismatch", "auto", False, True),
        (9, "on_mismatch", "relu", True, False),
    ):
        connector = ConvConnector(STAGE, dataclasses.replace(STAGE, channels=teacher_channels), policy=policy, act=act)
        connector.init_weights()
        x = torch.randn(2, 6, 8, 8)
        out = connector(x)
        assert out.shape == (2, teacher_channels, 8, 8)
        assert torch.equal(out, x) == identity
        assert bool((out >= 0).all()) == relu
    connector = ConvConnector(STAGE, dataclasses.replace(STAGE, post_relu=False))
    assert (connector(torch.randn(2, 6, 8, 8)) < 0).any()


def test_a_connector_without_norm_has_no_scale_that_a_standardising_loss_could_shrink() -> None:
    stage = dataclasses.replace(STAGE, post_relu=False)
    student, teacher = torch.randn(2, 6, 8, 8), torch.randn(2, 6, 8, 8)
    for norm, names in (
        ("BN", ["body.0.weight", "body.1.weight", "body.1.bias"]),
        ("none", ["body.0.weight", "body.0.bias"]),
    ):
        connector = ConvConnector(stage, stage, norm=norm)
        connector.init_weights()
        assert [name for name, _ in connector.named_parameters()] == names
        PKDLoss()(Observation(adapted={1: connector(student)}), Observation(features={1: teacher})).backward()
        last = dict(connector.named_parameters())[names[-2]]
        # The loss does not depend on the scale of a batch norm: all that is left of its gradient is rounding.
        assert (float(last.grad.abs().max()) > 1e-4) == (norm == "none")
    assert_refused(
        "ConvConnector: norm='LN' is unknown; choose one of 'BN', 'none'", ConvConnector, stage, stage, norm="LN"
    )


@pytest.mark.parametrize("kind", ["SepConvExit", "MirrorExit"])
def test_recipe_with_every_exit_type(kind: str) -> None:
    model = build(recipe=recipe(exits={"type": f"kd_mm.{kind}"}))
    data = model.data_preprocessor(batch(), True)
    loss, terms = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    assert "review.stage3to2" in terms
    assert all(p.grad is not None for p in model.objective.exits.parameters())


def test_mirror_exit_copies_the_rest_with_new_weights() -> None:
    model = build(recipe=recipe(exits={"type": "kd_mm.MirrorExit"}))
    own = dict(model.student.backbone.layer3.named_parameters())
    copied = dict(model.objective.exits["2"].body[0].named_parameters())
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in copied.items()}
    assert not torch.equal(own["0.conv1.weight"], copied["0.conv1.weight"])
    with pytest.raises(ValueError, match="do not run one after the other"):
        build(
            recipe=recipe(exits={"type": "kd_mm.MirrorExit"}),
            stages={
                "student": ["backbone.layer1.0.bn1", "backbone.layer2", "backbone.layer3"],
                "teacher": ["backbone.layer1", "backbone.layer2", "backbone.layer3"],
            },
        )


def test_exit_on_the_last_stage() -> None:
    model = build(recipe=recipe(exit_on_last=True))
    assert set(model.objective.exits) == {"1", "2", "3"}
    assert set(model.teachers["teacher"].exits) == {"1", "2", "3"}
    out = model(**model.data_preprocessor(batch(), True), mode="loss")
    assert "aux.stage3" in out
    assert "srd.stage3" in out


def test_online_exits_learn_from_labels_on_detached_features() -> None:
    model = build(ready=False, recipe=recipe(teacher_exits={"mode": "online"}))
    teacher = model.teachers["teacher"]
    assert not len(teacher.exits)
    out = model(**model.data_preprocessor(batch(), True), mode="loss")
    assert "loss_exits_of_teacher" in out
    model.parse_losses(out)[0].backward()
    assert all(p.grad is not None for p in model.objective.teacher_exits.parameters())
    assert all(p.grad is None for p in teacher.model.parameters())
    model.zero_grad()
    out = model(**model.data_preprocessor(batch(), True), mode="loss")
    out["loss_srd"].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.objective.teacher_exits.parameters())


def test_different_class_counts_need_a_channel_loss() -> None:
    teacher = {"config": classifier(14, classes=7), "random_weights": True}
    assert_refused("has 5 classes, teacher 'teacher' has 7.*StageChannelLoss", build, teacher=teacher)
    scd = {"scd": {"type": "kd_mm.StageChannelLoss"}}
    assert build(teacher=teacher, recipe={"losses": scd}).teachers


def test_exits_on_cells_share_one_grid_and_start_at_their_prior() -> None:
    for grid_stride, size in ((None, (3, 4)), (32, (3, 4)), (16, (6, 8)), (8, (12, 16)), (64, (2, 2))):
        widths, strides = [6, 8, 12, 16], [4, 8, 16, 32]
        for i, stride in enumerate(strides):
            exit_ = CellExit(widths[i:], 5, strides=strides[i:], grid_stride=grid_stride, norm="GN")
            exit_.init_weights()
            found = exit_(torch.randn(2, widths[i], 96 // stride, 128 // stride))
            assert found.shape == (2, 5, *size)
            assert float(found.sigmoid().mean()) == pytest.approx(0.01, rel=0.1)
