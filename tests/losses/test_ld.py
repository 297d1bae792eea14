"""LD. Public values: mmdet's LDHead, run here, and the valuable region of HikariTJU/LD by NumPy."""

import math

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from torch import Tensor

from kd_mm.losses import LDLoss, LossContext
from kd_mm.losses.dense_output import DenseHead, DenseOutput
from kd_mm.losses.ld import valuable_region
from kd_mm.losses.observation import DenseAssignment
from kd_mm.tasks.dense_targets import assigning, read_assignment

from ..distillers import detectors
from ..helpers.dense_heads import CLASSES, HEADS, SHAPE, Detector, pyramid

BINS = HEADS["GFLHead"]["reg_max"] + 1
OBJECTS = [
    torch.tensor([[5.0, 5.0, 40.0, 37.0], [50.0, 10.0, 90.0, 60.0]]),
    torch.tensor([[2.0, 3.0, 30.0, 33.0]]),
]


def recorded(detector: Detector, levels: list[Tensor]) -> dict[str, Tensor]:
    outputs = detector(levels)
    return {f"bbox_head[{k}][{level}]": one for k in range(2) for level, one in enumerate(outputs[k])}


def test_main_region_agrees_with_mmdets_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "LDHead", {**HEADS["GFLHead"], "loss_ld": {"type": "KnowledgeDistillationKLDivLoss"}})
    student, teacher = Detector("LDHead", seed=1), Detector("GFLHead", seed=2)
    records, others = recorded(student, pyramid()), recorded(teacher, pyramid(seed=4))
    truth = [InstanceData(bboxes=b, labels=torch.arange(len(b)) % CLASSES) for b in OBJECTS]
    metas, maps, found = [{"img_shape": SHAPE, "pad_shape": SHAPE}] * 2, list(records.values()), []
    with assigning(student.bbox_head, found):
        public = student.bbox_head.loss_by_feat(maps[:3], maps[3:], truth, metas, list(others.values())[3:])
    assignment = read_assignment(student.bbox_head, found[0], 2)
    own, target = (
        DenseHead(student.bbox_head).read(records, assignment),
        DenseHead(teacher.bbox_head).read(others),
    )
    loss = LDLoss(main_weight=0.25 / BINS, vlr_weight=0.0, reduction="sum")
    expected = 0.25 * sum(float(level) for level in public["loss_ld"])
    assert expected > 1e-3
    assert float(loss.compare(own, target)["main"]) == pytest.approx(expected, rel=1e-4)


def public_region(levels: list[np.ndarray], objects: np.ndarray) -> np.ndarray:
    """The valuable region one anchor and object at a time; the best IoU of the objects that claim an anchor."""

    def overlap(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
        sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
        inter = sides.prod()
        iou = inter / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inter)
        diagonal = ((np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])) ** 2).sum()
        return iou, iou - (((a[:2] + a[2:]) / 2 - (b[:2] + b[2:]) / 2) ** 2).sum() / diagonal

    anchors = np.concatenate(levels)
    weights = np.zeros(len(anchors))
    for box in objects:
        nearest = []
        for level in levels:
            distance = np.hypot(*((level[:, :2] + level[:, 2:] - box[:2] - box[2:]) / 2).T)
            nearest += [overlap(level[k], box)[0] for k in np.argsort(distance, kind="stable")[:9]]
        alpha = np.mean(nearest) + np.std(nearest, ddof=1)
        for k, anchor in enumerate(anchors):
            iou, diou = overlap(anchor, box)
            if 0.25 * alpha <= diou < alpha:
                weights[k] = max(weights[k], iou)
    return weights


def test_valuable_region_is_the_public_one() -> None:
    for kind in HEADS:
        detector = Detector(kind)
        # Objects off the centres of cells, so that no two anchors of a level are equally near.
        objects = torch.tensor([[5.3, 5.1, 40.9, 37.0], [50.2, 10.7, 90.4, 60.3], [20.1, 12.6, 60.8, 50.2]])
        levels = DenseHead(detector.bbox_head).anchors(recorded(detector, pyramid()))
        weights = valuable_region(levels, objects)
        if kind != "RetinaHead":  # nine anchors share a centre there
            expected = public_region([level.double().numpy() for level in levels], objects.double().numpy())
            np.testing.assert_allclose(weights.numpy(), expected, atol=1e-5)
        assert 0 < (weights > 0).sum() < len(weights)
        assert not valuable_region(levels, torch.zeros(0, 4)).any()


def test_points_stand_for_the_anchors_of_atss() -> None:
    anchors, points = (
        DenseHead(detector.bbox_head).anchors(recorded(detector, pyramid()))
        for detector in (Detector("ATSSHead"), Detector("FCOSHead"))
    )
    for level, other, stride in zip(anchors, points, (8, 16, 32), strict=True):
        torch.testing.assert_close(other, level + stride / 2)  # FCOS's points are the centres of the cells


def binned(*sides: list[float], assignment: DenseAssignment | None = None, score: float = 0.0) -> DenseOutput:
    """Boxes of equal sides, each a distribution over two bins, at positions of one score."""
    reg = torch.tensor(sides).double().repeat(1, 4)[None]
    return DenseOutput(torch.full((1, len(sides), 1), score).double(), reg, lambda reg: reg, None, assignment)


def test_both_regions_by_hand() -> None:
    anchors = [torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 20.0], [200.0, 200.0, 210.0, 210.0]])]
    objects = [torch.tensor([[0.0, 0.0, 10.0, 10.0]])]
    # IoU 1, 1/2, 0: mean 1/2 and deviation 1/2, so alpha is 1; DIoU of the second: 1/2 - 25/500 = 0.45.
    torch.testing.assert_close(valuable_region(anchors, objects[0]), torch.tensor([0.0, 0.5, 0.0]))
    positive = torch.tensor([[True, False, False]])
    own = binned([0.0, 0.0], [0.0, 0.0], [9.0, 0.0], assignment=DenseAssignment(torch.ones(1, 3), positive, 1.0))
    target = binned([0.0, math.log(3)], [0.0, math.log(7)], [0.0, 9.0])
    kl = [math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)]
    kl.append(math.log(2) + 7 / 8 * math.log(7 / 8) + 1 / 8 * math.log(1 / 8))
    terms = LDLoss(temperature=1.0, main_weight=2.0, vlr_weight=3.0).compare(own, target, anchors, objects)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx({"main": 2 * kl[0], "vlr": 3 * kl[1]})
    terms = LDLoss(temperature=1.0, reduction="sum", main_weight=1.0, vlr_weight=1.0).compare(
        own, target, anchors, objects
    )
    # The student's score is sigmoid(0).
    expected = {"main": 0.5 * kl[0], "vlr": 0.5 * kl[1]}
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("box", "expected"), [("giou", [1 - 1 / 7 + 2 / 9, 4 / 3]), ("l1", [(4 * 1 / 2) / 4, (2 + 2) / 4])]
)
def test_confident_boxes_by_hand(box: str, expected: list[float]) -> None:
    first = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0], [3.0, 3.0, 5.0, 7.0]]])
    second = torch.tensor([[[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0], [3.0, 3.0, 5.0, 7.0]]])
    scores = torch.tensor([0.9, 0.6, 0.3])
    own = DenseOutput(torch.zeros(1, 3, 1), first, lambda reg: reg)
    target = DenseOutput(scores.logit()[None, :, None], second, lambda reg: reg)
    weighted = 0.81 * expected[0] + 0.36 * expected[1]
    value = LDLoss(box, main_weight=2.0).compare(own, target)["confident"]
    assert float(value) == pytest.approx(2 * weighted / (0.81 + 0.36 + 0.09), rel=1e-5)
    # What the student's own targets ignore does not count.
    assignment = DenseAssignment(torch.tensor([[1.0, 0.0, 0.0]]), torch.zeros(1, 3, dtype=torch.bool), 1.0)
    own = DenseOutput(own.cls, own.reg, own.decode, None, assignment)
    value = LDLoss(box, main_weight=1.0).compare(own, target)["confident"]
    assert float(value) == pytest.approx(expected[0], rel=1e-5)


def test_images_without_objects_cost_nothing() -> None:
    nothing = DenseAssignment(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool), 1.0)
    own, target = binned([0.0, 1.0], [2.0, 0.0], assignment=nothing), binned([5.0, 0.0], [0.0, 3.0])
    own.reg.requires_grad_()
    anchors = [torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 20.0]])]
    total = torch.stack(list(LDLoss().compare(own, target, anchors, [torch.zeros(0, 4)]).values())).sum()
    total.backward()
    assert float(total) == 0
    assert not own.reg.grad.any()


def test_equal_detectors_have_equal_boxes() -> None:
    """A student in training and its teacher in evaluation; FCOS gives strides in the one and pixels in the other."""
    for kind in HEADS:
        student, teacher = Detector(kind).train(), Detector(kind).eval()
        records = [recorded(one, pyramid()) for one in (student, teacher)]
        own, target = (
            DenseHead(one.bbox_head).read(found) for one, found in zip((student, teacher), records, strict=True)
        )
        torch.testing.assert_close(own.boxes(), target.boxes())
        assert set(LDLoss().extra_taps(student, teacher)[0]) == set(records[0])


def test_wrong_options_and_heads() -> None:
    wide, narrow = binned([0.0, 0.0]), DenseOutput(torch.zeros(1, 1, 1), torch.zeros(1, 1, 12), lambda reg: reg)
    with pytest.raises(ValueError, match=r"box='kl' compares distributions .* the student has 2 a side .* teacher 3"):
        LDLoss("kl").compare(wide, narrow)
    with pytest.raises(ValueError, match=r"boxes at \(1, 1\) positions .* the teacher at \(1, 2\)"):
        LDLoss().compare(wide, binned([0.0, 0.0], [0.0, 0.0]))
    with pytest.raises(ValueError, match="the targets of this student cannot be read; take region='confident'"):
        LDLoss(region="assigned").compare(wide, wide)
    with pytest.raises(ValueError, match=r"\(stride, anchors\) \[\(8, 9\).*the teacher \[\(8, 1\)"):
        LDLoss().extra_taps(Detector("RetinaHead"), Detector("GFLHead"))
    with pytest.raises(ValueError, match="FasterRCNN and FasterRCNN do not both have .* box='kl'"):
        LDLoss("kl").extra_taps(*[detectors.plain(detectors.faster())] * 2)
    loss = LDLoss("kl")
    taps = loss.extra_taps(Detector("GFLHead"), Detector("GFLHead", reg_max=7))
    shapes = [
        {tap: tuple(one.shape) for tap, one in recorded(detector, pyramid()).items()}
        for detector in (Detector("GFLHead"), Detector("GFLHead", reg_max=7))
    ]
    assert set(taps[0]) == set(shapes[0])
    with pytest.raises(ValueError, match="the student has 6 a side and the teacher 8"):
        loss.setup(LossContext(student_taps=shapes[0], teacher_taps=shapes[1]))
    with pytest.raises(ValueError, match="Linear and Linear do not both have a dense head"):
        LDLoss().extra_taps(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
