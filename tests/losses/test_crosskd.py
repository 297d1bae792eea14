"""CrossKD: its loss against public code, and the student's features in the teacher's dense head."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS as DETECTION
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from kd_mm.losses.crosskd import CrossHeadForward, CrossKDLoss, align_scale
from kd_mm.losses.dense_output import DenseOutput
from kd_mm.losses.observation import DenseAssignment
from kd_mm.stages.recorder import Recorder

from ..helpers.dense_heads import CLASSES, HEADS, STRIDES, Detector, pyramid
from ..helpers.errors import assert_refused
from ..helpers.losses import corners
from ..helpers.waves import wave

COUNTED = torch.tensor([[1, 1, 0, 1, 1, 1], [1, 0, 1, 1, 1, 1]], dtype=torch.float64)
POSITIVE = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]], dtype=torch.bool)


def same(reg: Tensor) -> Tensor:
    return reg


def outputs(bins: bool = False, assigned: bool = True) -> tuple[DenseOutput, DenseOutput]:
    """Return the crossed and the teacher's output at six positions of two images; regressions are boxes already."""
    crossed_reg, teacher_reg = (wave(2, 6, 20, pace=p, size=2.0) if bins else None for p in (0.9, 1.7))
    if crossed_reg is None or teacher_reg is None:
        crossed_reg, teacher_reg = corners(0.9, 6), corners(1.1, 6)
    assignment = DenseAssignment(COUNTED, POSITIVE, 3.0) if assigned else None
    crossed = DenseOutput(wave(2, 6, 3, pace=0.9, size=3.0), crossed_reg, same, wave(2, 6, pace=0.9), assignment)
    return crossed, DenseOutput(wave(2, 6, 3, pace=1.7, size=2.0), teacher_reg, same, wave(2, 6, pace=1.7))


@pytest.mark.parametrize(
    ("options", "bins", "term", "expected"),
    [
        ({}, False, "cls", 6.497073803993773),
        ({"focus": 2.0, "cls_weight": 0.4}, False, "cls", 0.4 * 4.246148723985019),
        ({}, False, "box", 3.3213026026679007),
        ({"box": "giou", "box_weight": 2.0}, False, "box", 2 * 3.3213026026679007),
        ({"box": "iou"}, False, "box", 21.870499589185044),
        ({}, True, "box", 4 * 1.3141843395675052),
        ({"box": "kl", "box_weight": 1.0}, True, "box", 1.3141843395675052),
        ({"quality_weight": 1.0}, False, "quality", 0.7503602504730225),
    ],
)
def test_agrees_with_public_code(options: dict, bins: bool, term: str, expected: float) -> None:
    terms = CrossKDLoss(**options).compare(*outputs(bins))
    assert float(terms[term]) == pytest.approx(expected, rel=1e-6)
    assert set(terms) == {"cls", "box", "quality"} if "quality_weight" in options else {"cls", "box"}


def test_all_but_one_convolution_remain_the_students_by_default() -> None:
    for student, teacher, expected in ((4, 4, 2), (2, 4, 0), (1, 1, 0)):
        detectors = [Detector("RetinaHead", stacked_convs=convolutions) for convolutions in (student, teacher)]
        taps, _ = CrossKDLoss().extra_taps(*detectors)
        assert {tap.partition("#")[0] for tap in taps} == {
            f"bbox_head.{side}_convs.{expected}" for side in ("cls", "reg")
        }


def test_equal_outputs_cost_nothing() -> None:
    crossed, _ = outputs()
    terms = CrossKDLoss().compare(crossed, crossed)
    assert [float(terms[name]) for name in ("cls", "box")] == pytest.approx([0, 0], abs=1e-12)


def test_without_an_assignment_every_position_counts_by_the_teachers_confidence() -> None:
    crossed, target = outputs(assigned=False)
    terms = CrossKDLoss().compare(crossed, target)
    p, q = (1 / (1 + np.exp(-output.cls.numpy())) for output in (target, crossed))
    cross = -(p * np.log(q) + (1 - p) * np.log(1 - q)) * np.abs(p - q)
    assert float(terms["cls"]) == pytest.approx(cross.sum() / p.max(axis=-1).sum(), rel=1e-9)


def test_wrong_options_and_heads() -> None:
    crossed, target = outputs()
    with pytest.raises(ValueError, match="box='kl' compares distributions over bins"):
        CrossKDLoss(box="kl").compare(crossed, target)
    with pytest.raises(ValueError, match="quality_weight needs a head with centerness"):
        CrossKDLoss(quality_weight=1.0).compare(*outputs(assigned=False))
    short = DenseOutput(target.cls[:, :4], target.reg[:, :4], same)
    with pytest.raises(ValueError, match=r"\(2, 6, 3\) class logits .* the teacher's own \(2, 4, 3\)"):
        CrossKDLoss().compare(crossed, short)


@pytest.mark.parametrize(
    ("box", "expected"),
    [("iou", [math.log(7), -math.log(1e-6), 0.0]), ("giou", [1 - 1 / 7 + 2 / 9, 4 / 3, 0.0])],
)
def test_boxes_by_hand(box: str, expected: list[float]) -> None:
    first = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0], [3.0, 3.0, 5.0, 7.0]]])
    second = torch.tensor([[[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0], [3.0, 3.0, 5.0, 7.0]]])
    heads = [DenseOutput(torch.zeros(1, 3, 1), boxes, same) for boxes in (first, second)]
    # Confidence 1/2 at each of three positions, whose sum 3/2 is the divisor.
    assert float(CrossKDLoss(box=box).compare(*heads)["box"]) == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_infinite_boxes_have_a_finite_loss() -> None:
    for box in ("iou", "giou"):
        infinite = torch.tensor([[[-torch.inf, 0.0, torch.inf, 5.0]]], requires_grad=True)
        boxes = (infinite, torch.tensor([[[0.0, 0.0, 4.0, 4.0]]]))
        value = CrossKDLoss(box=box).compare(*(DenseOutput(torch.zeros(1, 1, 1), reg, same) for reg in boxes))["box"]
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(infinite.grad).all()


def recorded(detector: Detector, taps: tuple[str, ...], levels: list[Tensor]) -> tuple[dict[str, Tensor], Any]:
    recorder = Recorder(detector, taps)
    with recorder:
        outputs = detector(levels)
    tensors = recorder.take()
    return tensors, outputs


def pair(kind: str, **options: Any) -> tuple[Detector, Detector, CrossHeadForward]:
    student, teacher = Detector(kind, seed=1), Detector(kind, seed=2).eval().requires_grad_(False)
    return student, teacher, CrossHeadForward(teacher.bbox_head, **options)


def recorded_pair(kind: str, **options: Any) -> tuple[Detector, Detector, CrossHeadForward, Any, Any]:
    """A pair, the student's features in its towers, and what the teacher gives."""
    student, teacher, crossing = pair(kind, **options)
    target, _ = recorded(teacher, crossing.teacher_taps, pyramid())
    features, _ = recorded(student, crossing.tower_taps, pyramid())
    return student, teacher, crossing, features, target


@pytest.mark.parametrize(("kind", "split"), [*((kind, 3) for kind in HEADS), ("RetinaHead", 1), ("FCOSHead", 4)])
def test_the_teachers_own_features_cross_into_its_own_output(kind: str, split: int) -> None:
    _, teacher, crossing = pair(kind, split=split, align=False)
    taps = crossing.tower_taps + crossing.teacher_taps
    features, outputs = recorded(teacher, taps, pyramid())
    own, crossed = crossing.outputs.read(features), crossing.cross(features, features)
    assert torch.equal(own.cls, crossed.cls)
    assert torch.equal(own.reg, crossed.reg)
    assert torch.equal(own.boxes(), crossed.boxes())
    assert (own.quality is None) == (kind in ("RetinaHead", "GFLHead"))
    if own.quality is not None:
        assert torch.equal(own.quality, crossed.quality)
    # One anchor after the other: image, level, row, column, anchor.
    anchors = 9 if kind == "RetinaHead" else 1
    level = outputs[0][1]
    first = anchors * outputs[0][0].shape[2] * outputs[0][0].shape[3]
    row, column, anchor = 1, 2, anchors - 1
    at = first + (row * level.shape[3] + column) * anchors + anchor
    assert torch.equal(own.cls[1, at], level[1, anchor * CLASSES : (anchor + 1) * CLASSES, row, column])


@pytest.mark.parametrize("kind", HEADS)
def test_gradients_reach_the_student_alone_and_the_teacher_does_not_change(kind: str) -> None:
    student, teacher, crossing = pair(kind)
    before, modules = {k: v.clone() for k, v in teacher.state_dict().items()}, dict(teacher.named_modules())
    target, _ = recorded(teacher, crossing.teacher_taps, pyramid())
    features, _ = recorded(student, crossing.tower_taps, pyramid())
    crossed = crossing.cross(features, target)
    (crossed.cls.square().sum() + crossed.boxes().sum()).backward()
    inside = {f"bbox_head.{tower}.{k}.conv.weight" for tower in ("cls_convs", "reg_convs") for k in range(3)}
    reached = {name for name, parameter in student.named_parameters() if parameter.grad is not None}
    assert inside <= reached
    assert not any(name.startswith(("bbox_head.cls_convs.3", "bbox_head.reg_convs.3")) for name in reached)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert dict(teacher.named_modules()) == modules
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_convolutions_ahead_of_the_split_do_not_run_and_hooks_on_the_head_do_not_fire() -> None:
    _, teacher, crossing, features, target = recorded_pair("RetinaHead")
    calls: list[str] = []
    for name, module in teacher.named_modules():
        module.register_forward_hook(lambda module, args, output, name=name: calls.append(name))
    crossing.cross(features, target)
    assert "bbox_head" not in calls
    convs = {name for name in calls if name.endswith(".conv")}
    assert convs == {"bbox_head.cls_convs.3.conv", "bbox_head.reg_convs.3.conv"}
    assert calls.count("bbox_head.retina_cls") == len(STRIDES)


def test_crossing_is_the_rest_of_the_head_by_hand() -> None:
    _, teacher, crossing, features, target = recorded_pair("RetinaHead", split=2)
    crossed, head = crossing.cross(features, target), teacher.bbox_head
    tap = "bbox_head.cls_convs.1#0"
    feature = align_scale(features[tap], target[tap]).relu()
    for conv in head.cls_convs[2:]:
        feature = conv(feature)
    expected = head.retina_cls(feature).permute(0, 2, 3, 1).reshape(2, -1, CLASSES)
    torch.testing.assert_close(crossed.cls[:, : expected.shape[1]], expected)


def test_a_crossing_follows_its_head() -> None:
    _, teacher, crossing = pair("GFLHead", align=False)
    teacher.double()
    teacher.bbox_head.cls_convs[3] = nn.Identity()
    levels = [level.double() for level in pyramid()]
    features, _ = recorded(teacher, crossing.tower_taps + crossing.teacher_taps, levels)
    assert torch.equal(crossing.outputs.read(features).cls, crossing.cross(features, features).cls)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_teacher_in_half_precision(autocast: bool) -> None:
    student, teacher, crossing = pair("RetinaHead")
    levels = pyramid()
    features, _ = recorded(student, crossing.tower_taps, levels)
    if not autocast:
        teacher.bfloat16()
        levels = [level.bfloat16() for level in levels]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        target, _ = recorded(teacher, crossing.teacher_taps, levels)
        crossed = crossing.cross(features, target)
    assert crossed.cls.dtype == torch.bfloat16
    assert crossed.boxes().dtype == torch.float32
    crossed.boxes().sum().backward()
    assert torch.isfinite(student.bbox_head.reg_convs[0].conv.weight.grad).all()


def test_align_scale_by_numpy() -> None:
    student, teacher = torch.randn(2, 3, 4, 5).double() * 3 + 1, torch.randn(2, 3, 2, 2).double() - 2
    result = align_scale(student, teacher).numpy()
    for c in range(3):
        a, b = student[:, c].numpy(), teacher[:, c].numpy()
        expected = (a - a.mean()) / (a.std(ddof=1) + 1e-6) * b.std(ddof=1) + b.mean()
        np.testing.assert_allclose(result[:, c], expected, rtol=1e-9)
    single = align_scale(torch.ones(1, 3, 1, 1), teacher.float())
    torch.testing.assert_close(single[0, :, 0, 0], teacher.float().mean(dim=(0, 2, 3)))
    assert align_scale(1e4 * student.bfloat16(), teacher.bfloat16()).dtype == torch.bfloat16


def test_heads_without_two_towers_are_refused_in_one_line() -> None:
    for kind in (
        {"type": "RPNHead", "in_channels": 32, "feat_channels": 32},
        {"type": "AnchorHead", "num_classes": 3, "in_channels": 32, "feat_channels": 32},
        {"type": "YOLOXHead", "num_classes": 3, "in_channels": 32, "feat_channels": 32},
        {"type": "RTMDetSepBNHead", "num_classes": 3, "in_channels": 32, "feat_channels": 32},
        {"type": "FoveaHead", "num_classes": 3, "in_channels": 32, "feat_channels": 32, "stacked_convs": 4},
        {"type": "RepPointsHead", "num_classes": 3, "in_channels": 32, "feat_channels": 32, "point_feat_channels": 32},
    ):
        init_default_scope("mmdet")
        head = DETECTION.build(kind).eval()
        assert_refused(f"CrossKD: {kind['type']} has no dense head of two towers", CrossHeadForward, head, split=1)


def test_splits_and_widths_that_do_not_fit_are_refused() -> None:
    _, teacher, _ = pair("RetinaHead")
    for split in (0, 5):
        with pytest.raises(ValueError, match=rf"split={split}, but .* RetinaHead has 4 convolutions; choose 1\.\.4"):
            CrossHeadForward(teacher.bbox_head, split=split)
    student = Detector("RetinaHead", width=6)
    widths = r"head has \[6, 6\] channels behind convolution 3 of its towers, the teacher's \[32, 32\]"
    assert_refused(widths, CrossKDLoss().extra_taps, student, teacher)
    priors = teacher.bbox_head.prior_generator
    wider = {"type": "AnchorGenerator", "octave_base_scale": 4, "scales_per_octave": 2, "ratios": [0.5, 1.0, 2.0]}
    strides = [stride for stride, _ in priors.strides]
    fewer = Detector("RetinaHead", anchor_generator={**wider, "strides": strides})
    assert_refused(
        r"levels of \(stride, anchors\) .* give both the same .*anc", CrossKDLoss().extra_taps, fewer, teacher
    )
    short = Detector("RetinaHead", anchor_generator={**wider, "scales_per_octave": 3, "strides": strides[:2]})
    levels = rf"\[\({strides[0]}, 9\), \({strides[1]}, 9\)\], the teacher's .* give both the same .*num_outs"
    assert_refused(levels, CrossKDLoss().extra_taps, short, teacher)
