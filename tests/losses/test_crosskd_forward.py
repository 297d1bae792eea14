"""The student's features in the teacher's dense head."""

from typing import Any

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS as DETECTION
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from kd_mm.losses.crosskd_forward import CrossHeadForward, align_scale
from kd_mm.stages.recorder import Recorder

from ..helpers.dense_heads import CLASSES, HEADS, STRIDES, Detector, pyramid


def recorded(detector: Detector, taps: tuple[str, ...], levels: list[Tensor]) -> tuple[dict[str, Tensor], Any]:
    recorder = Recorder(detector, taps)
    with recorder:
        outputs = detector(levels)
    tensors = recorder.take()
    return tensors, outputs


def pair(kind: str, **options: Any) -> tuple[Detector, Detector, CrossHeadForward]:
    student, teacher = Detector(kind, seed=1), Detector(kind, seed=2).eval().requires_grad_(False)
    return student, teacher, CrossHeadForward(teacher.bbox_head, **options)


@pytest.mark.parametrize(("kind", "split"), [*((kind, 3) for kind in HEADS), ("RetinaHead", 1), ("FCOSHead", 4)])
def test_the_teachers_own_features_cross_into_its_own_output(kind: str, split: int) -> None:
    _, teacher, crossing = pair(kind, split=split, align=False)
    taps = crossing.tower_taps + crossing.teacher_taps
    features, outputs = recorded(teacher, taps, pyramid())
    own, crossed = crossing.dense(features), crossing.cross(features, features)
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
    student, teacher, crossing = pair("RetinaHead")
    target, _ = recorded(teacher, crossing.teacher_taps, pyramid())
    features, _ = recorded(student, crossing.tower_taps, pyramid())
    calls: list[str] = []
    for name, module in teacher.named_modules():
        module.register_forward_hook(lambda module, args, output, name=name: calls.append(name))
    crossing.cross(features, target)
    assert "bbox_head" not in calls
    convs = {name for name in calls if name.endswith(".conv")}
    assert convs == {"bbox_head.cls_convs.3.conv", "bbox_head.reg_convs.3.conv"}
    assert calls.count("bbox_head.retina_cls") == len(STRIDES)


def test_crossing_is_the_rest_of_the_head_by_hand() -> None:
    student, teacher, crossing = pair("RetinaHead", split=2)
    target, _ = recorded(teacher, crossing.teacher_taps, pyramid())
    features, _ = recorded(student, crossing.tower_taps, pyramid())
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
    assert torch.equal(crossing.dense(features).cls, crossing.cross(features, features).cls)


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


@pytest.mark.parametrize(
    "kind",
    [
        {"type": "RPNHead", "in_channels": 32, "feat_channels": 32},
        {"type": "AnchorHead", "num_classes": 3, "in_channels": 32, "feat_channels": 32},
        {"type": "YOLOXHead", "num_classes": 3, "in_channels": 32, "feat_channels": 32},
        {"type": "RTMDetSepBNHead", "num_classes": 3, "in_channels": 32, "feat_channels": 32},
        {"type": "FoveaHead", "num_classes": 3, "in_channels": 32, "feat_channels": 32, "stacked_convs": 4},
        {"type": "RepPointsHead", "num_classes": 3, "in_channels": 32, "feat_channels": 32, "point_feat_channels": 32},
    ],
    ids=lambda config: config["type"],
)
def test_heads_without_two_towers_are_refused_in_one_line(kind: dict[str, Any]) -> None:
    init_default_scope("mmdet")
    head = DETECTION.build(kind).eval()
    with pytest.raises(ValueError, match=f"CrossKD: {kind['type']} is not a dense head of two towers") as error:
        CrossHeadForward(head, split=1)
    assert "\n" not in str(error.value)


def test_splits_and_widths_that_do_not_fit_are_refused() -> None:
    _, teacher, crossing = pair("RetinaHead")
    for split in (0, 5):
        with pytest.raises(ValueError, match=rf"split={split}, but .* RetinaHead has 4 convolutions; choose 1\.\.4"):
            CrossHeadForward(teacher.bbox_head, split=split)
    target, _ = recorded(teacher, crossing.teacher_taps, pyramid())
    features, _ = recorded(Detector("RetinaHead", width=6), crossing.tower_taps, pyramid())
    with pytest.raises(ValueError, match=r"cls_convs\.2#0 has 6 channels in the student, 32 in the teacher"):
        crossing.cross(features, target)
