"""The student's features in the teacher's dense head, and the student's targets that weigh them."""

from typing import Any

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS as DETECTION
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from kd_mm.losses.crosskd_forward import CrossHeadForward, align_scale
from kd_mm.losses.dense_outputs import decode_boxes
from kd_mm.stages.recorder import Recorder
from kd_mm.tasks.dense_targets import assigning, read_assignment

WIDTH, CLASSES, SHAPE = 32, 3, (64, 96)
STRIDES = [8, 16, 32]
ANCHOR = {
    "type": "AnchorGenerator",
    "ratios": [1.0],
    "octave_base_scale": 8,
    "scales_per_octave": 1,
    "strides": STRIDES,
}
TRAIN = {"assigner": {"type": "ATSSAssigner", "topk": 9}, "allowed_border": -1, "pos_weight": -1, "debug": False}
MAX_IOU = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0, "ignore_iof_thr": -1}
FOCAL = {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25}
CENTER = {"type": "CrossEntropyLoss", "use_sigmoid": True}
HEADS: dict[str, dict[str, Any]] = {
    "RetinaHead": {
        "anchor_generator": {**ANCHOR, "ratios": [0.5, 1.0, 2.0], "octave_base_scale": 4, "scales_per_octave": 3},
        "train_cfg": {**TRAIN, "assigner": MAX_IOU, "sampler": {"type": "PseudoSampler"}},
        "loss_cls": FOCAL,
    },
    "GFLHead": {
        "anchor_generator": ANCHOR,
        "train_cfg": TRAIN,
        "reg_max": 5,
        "loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0},
        "loss_bbox": {"type": "GIoULoss"},
    },
    "ATSSHead": {
        "anchor_generator": ANCHOR,
        "train_cfg": TRAIN,
        "loss_cls": FOCAL,
        "loss_bbox": {"type": "GIoULoss"},
        "loss_centerness": CENTER,
    },
    "FCOSHead": {
        "strides": STRIDES,
        "regress_ranges": ((-1, 32), (32, 64), (64, 1e8)),
        "norm_on_bbox": True,
        "centerness_on_reg": True,
        "loss_cls": FOCAL,
        "loss_bbox": {"type": "GIoULoss"},
        "loss_centerness": CENTER,
    },
}


class Detector(nn.Module):
    """A dense head under the name that detectors give it."""

    def __init__(self, kind: str, seed: int = 0, width: int = WIDTH, **options: Any) -> None:
        super().__init__()
        init_default_scope("mmdet")
        torch.manual_seed(seed)
        common = {"num_classes": CLASSES, "in_channels": WIDTH, "feat_channels": width, "stacked_convs": 4}
        self.bbox_head: Any = DETECTION.build({"type": kind, **common, **HEADS[kind], **options})
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0, 0.1)

    def forward(self, levels: list[Tensor]) -> Any:
        return self.bbox_head(levels)


def pyramid(seed: int = 0, batch: int = 2) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(batch, WIDTH, SHAPE[0] // stride, SHAPE[1] // stride) for stride in STRIDES]


def shown(detector: Detector, taps: tuple[str, ...], levels: list[Tensor]) -> tuple[dict[str, Tensor], Any]:
    recorder = Recorder(detector, taps)
    with recorder:
        outputs = detector(levels)
    taken = recorder.take()
    recorder.detach()
    return taken, outputs


def pair(kind: str, **options: Any) -> tuple[Detector, Detector, CrossHeadForward]:
    student, teacher = Detector(kind, seed=1), Detector(kind, seed=2).eval().requires_grad_(False)
    return student, teacher, CrossHeadForward(teacher.bbox_head, **options)


@pytest.mark.parametrize("split", [1, 3, 4])
@pytest.mark.parametrize("kind", HEADS)
def test_the_teachers_own_features_cross_into_its_own_output(kind: str, split: int) -> None:
    _, teacher, crossing = pair(kind, split=split, align=False)
    taps = crossing.tower_taps + crossing.teacher_taps
    taken, outputs = shown(teacher, taps, pyramid())
    own, crossed = crossing.dense(taken), crossing.cross(taken, taken)
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
def test_aligned_with_themselves_features_stay_what_they_are(kind: str) -> None:
    _, teacher, crossing = pair(kind)
    taken, _ = shown(teacher, crossing.teacher_taps, pyramid())
    own, crossed = crossing.dense(taken), crossing.cross(taken, taken)
    torch.testing.assert_close(crossed.cls, own.cls, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(crossed.reg, own.reg, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", HEADS)
def test_gradients_reach_the_student_alone_and_the_teacher_stays_as_it_was(kind: str) -> None:
    student, teacher, crossing = pair(kind)
    before, modules = {k: v.clone() for k, v in teacher.state_dict().items()}, dict(teacher.named_modules())
    taught, _ = shown(teacher, crossing.teacher_taps, pyramid())
    taken, _ = shown(student, crossing.tower_taps, pyramid())
    crossed = crossing.cross(taken, taught)
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
    taught, _ = shown(teacher, crossing.teacher_taps, pyramid())
    taken, _ = shown(student, crossing.tower_taps, pyramid())
    calls: list[str] = []
    for name, module in teacher.named_modules():
        module.register_forward_hook(lambda module, args, output, name=name: calls.append(name))
    crossing.cross(taken, taught)
    assert "bbox_head" not in calls
    convs = {name for name in calls if name.endswith(".conv")}
    assert convs == {"bbox_head.cls_convs.3.conv", "bbox_head.reg_convs.3.conv"}
    assert calls.count("bbox_head.retina_cls") == len(STRIDES)


def test_crossing_is_the_rest_of_the_head_by_hand() -> None:
    student, teacher, crossing = pair("RetinaHead", split=2)
    taught, _ = shown(teacher, crossing.teacher_taps, pyramid())
    taken, _ = shown(student, crossing.tower_taps, pyramid())
    crossed, head = crossing.cross(taken, taught), teacher.bbox_head
    tap = "bbox_head.cls_convs.1#0"
    feature = align_scale(taken[tap], taught[tap]).relu()
    for conv in head.cls_convs[2:]:
        feature = conv(feature)
    expected = head.retina_cls(feature).permute(0, 2, 3, 1).reshape(2, -1, CLASSES)
    torch.testing.assert_close(crossed.cls[:, : expected.shape[1]], expected)


def test_a_crossing_follows_its_head() -> None:
    _, teacher, crossing = pair("GFLHead", align=False)
    teacher.double()
    teacher.bbox_head.cls_convs[3] = nn.Identity()
    levels = [level.double() for level in pyramid()]
    taken, _ = shown(teacher, crossing.tower_taps + crossing.teacher_taps, levels)
    assert torch.equal(crossing.dense(taken).cls, crossing.cross(taken, taken).cls)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_teacher_of_half_precision_takes_the_students_features(autocast: bool) -> None:
    student, teacher, crossing = pair("RetinaHead")
    levels = pyramid()
    taken, _ = shown(student, crossing.tower_taps, levels)
    if not autocast:
        teacher.bfloat16()
        levels = [level.bfloat16() for level in levels]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        taught, _ = shown(teacher, crossing.teacher_taps, levels)
        crossed = crossing.cross(taken, taught)
    assert crossed.cls.dtype == torch.bfloat16
    assert crossed.boxes().dtype == torch.float32
    crossed.boxes().sum().backward()
    assert torch.isfinite(student.bbox_head.reg_convs[0].conv.weight.grad).all()


def test_align_scale_by_numpy() -> None:
    ours, theirs = torch.randn(2, 3, 4, 5).double() * 3 + 1, torch.randn(2, 3, 2, 2).double() - 2
    found = align_scale(ours, theirs).numpy()
    for c in range(3):
        a, b = ours[:, c].numpy(), theirs[:, c].numpy()
        expected = (a - a.mean()) / (a.std(ddof=1) + 1e-6) * b.std(ddof=1) + b.mean()
        np.testing.assert_allclose(found[:, c], expected, rtol=1e-9)
    single = align_scale(torch.ones(1, 3, 1, 1), theirs.float())
    torch.testing.assert_close(single[0, :, 0, 0], theirs.float().mean(dim=(0, 2, 3)))
    assert align_scale(1e4 * ours.bfloat16(), theirs.bfloat16()).dtype == torch.bfloat16


def test_boxes_by_hand() -> None:
    sizes = [(SHAPE[0] // stride, SHAPE[1] // stride) for stride in STRIDES]
    cells = sum(h * w for h, w in sizes)
    retina = Detector("RetinaHead").bbox_head
    anchors = torch.cat(retina.prior_generator.grid_priors(sizes, device="cpu"))
    boxes = decode_boxes(retina, sizes, torch.zeros(2, 9 * cells, 4))
    torch.testing.assert_close(boxes, anchors.expand(2, -1, -1))
    # Every side one cell of the first level away from the first point, (4, 4).
    fcos = decode_boxes(Detector("FCOSHead").bbox_head, sizes, torch.full((1, cells, 4), 8.0, dtype=torch.bfloat16))
    torch.testing.assert_close(fcos[0, 0], torch.tensor([-4.0, -4.0, 12.0, 12.0]))
    # Equal bins 0..5 mean 2.5 strides; the first anchor's centre is (0, 0), the last level's stride is 32.
    gfl = decode_boxes(Detector("GFLHead").bbox_head, sizes, torch.zeros(1, cells, 24))
    torch.testing.assert_close(gfl[0, 0], torch.tensor([-20.0, -20.0, 20.0, 20.0]))
    torch.testing.assert_close(gfl[0, -1], torch.tensor([64.0 - 80, 32.0 - 80, 64.0 + 80, 32.0 + 80]))


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
    taught, _ = shown(teacher, crossing.teacher_taps, pyramid())
    taken, _ = shown(Detector("RetinaHead", width=6), crossing.tower_taps, pyramid())
    with pytest.raises(ValueError, match=r"cls_convs\.2#0 has 6 channels in the student, 32 in the teacher"):
        crossing.cross(taken, taught)


# -- the student's targets -----------------------------------------------------------------------------------------


def annotations(boxes: list[list[list[float]]]) -> tuple[list[InstanceData], list[dict[str, Any]]]:
    truth = []
    for image in boxes:
        found = torch.tensor(image).view(-1, 4)
        truth.append(InstanceData(bboxes=found, labels=torch.arange(len(found)) % CLASSES))
    # The second image is smaller than the padded batch.
    metas = [{"img_shape": shape, "pad_shape": shape} for shape in (SHAPE, (40, 60))]
    return truth, metas


OBJECTS = [[[5.0, 5.0, 40.0, 37.0], [50.0, 10.0, 90.0, 60.0]], [[2.0, 3.0, 30.0, 33.0]]]


@pytest.mark.parametrize("kind", HEADS)
def test_the_assignment_is_the_students_own(kind: str) -> None:
    head = Detector(kind).bbox_head
    outputs, (truth, metas) = head(pyramid()), annotations(OBJECTS)
    found: list[Any] = []
    with assigning(head, found):
        head.loss_by_feat(*outputs, truth, metas)
    assert "get_targets" not in vars(head)
    assert len(found) == 1
    assignment = read_assignment(head, found[0], batch=2)
    assert assignment is not None
    anchors = 9 if kind == "RetinaHead" else 1
    count = anchors * sum((SHAPE[0] // stride) * (SHAPE[1] // stride) for stride in STRIDES)
    assert assignment.counted.shape == assignment.positive.shape == (2, count)
    assert assignment.positive.any(dim=1).all()
    assert (assignment.counted[assignment.positive] == 1).all()
    if kind == "FCOSHead":
        # A centerness is at most 1.
        assert (assignment.counted == 1).all()
        assert 0 < float(assignment.normalizer) <= int(assignment.positive.sum())
    else:
        assert float(assignment.normalizer) == int(assignment.positive.sum())
        # The padding of the second image is ignored, and with it all that lies there.
        assert (assignment.counted[1] == 0).any()


@pytest.mark.parametrize("kind", HEADS)
def test_images_without_objects_have_an_assignment(kind: str) -> None:
    head = Detector(kind).bbox_head
    outputs, (truth, metas) = head(pyramid()), annotations([[], []])
    found: list[Any] = []
    with assigning(head, found):
        head.loss_by_feat(*outputs, truth, metas)
    assignment = read_assignment(head, found[0], batch=2)
    assert assignment is not None
    assert not assignment.positive.any()
    assert float(assignment.normalizer) >= 1


def test_targets_of_an_unknown_form_are_no_assignment() -> None:
    head = Detector("RetinaHead").bbox_head
    assert read_assignment(head, ([torch.zeros(2, 3)], [torch.zeros(2, 3)]), batch=2) is None
