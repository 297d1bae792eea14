"""Outputs of dense heads and of RoI heads, and the boxes that they mean."""

from typing import Any

import pytest
import torch
from torch import nn

from kd_mm.losses.dense_output import decode_boxes
from kd_mm.losses.region_output import RegionHead

from ..distillers import detectors
from ..helpers.dense_heads import SHAPE, STRIDES, Detector


def test_boxes_by_hand() -> None:
    sizes = [(SHAPE[0] // stride, SHAPE[1] // stride) for stride in STRIDES]
    cells = sum(h * w for h, w in sizes)
    retina = Detector("RetinaHead").bbox_head
    anchors = torch.cat(retina.prior_generator.grid_priors(sizes, device="cpu"))
    boxes = decode_boxes(retina, sizes, torch.zeros(2, 9 * cells, 4))
    torch.testing.assert_close(boxes, anchors.expand(2, -1, -1))
    # Every side one cell of the first level away from the first point, (4, 4).
    point, fcos = torch.tensor([-4.0, -4.0, 12.0, 12.0]), Detector("FCOSHead").bbox_head
    boxes = decode_boxes(fcos.eval(), sizes, torch.full((1, cells, 4), 8.0, dtype=torch.bfloat16))
    torch.testing.assert_close(boxes[0, 0], point)
    # In training that head gives distances in strides.
    torch.testing.assert_close(decode_boxes(fcos.train(), sizes, torch.ones(1, cells, 4))[0, 0], point)
    # Equal bins 0..5 mean 2.5 strides; the first anchor's centre is (0, 0), the last level's stride is 32.
    gfl = decode_boxes(Detector("GFLHead").bbox_head, sizes, torch.zeros(1, cells, 24))
    torch.testing.assert_close(gfl[0, 0], torch.tensor([-20.0, -20.0, 20.0, 20.0]))
    torch.testing.assert_close(gfl[0, -1], torch.tensor([64.0 - 80, 32.0 - 80, 64.0 + 80, 32.0 + 80]))


def fitting(model: Any, **options: Any) -> bool:
    model.roi_head.bbox_head.update(options)
    return RegionHead.fits(detectors.plain(model))


def test_only_heads_that_regress_a_box_of_each_region_fit() -> None:
    assert fitting(detectors.faster())
    assert not fitting(detectors.faster(), with_reg=False)
    assert RegionHead.fits(detectors.plain(detectors.cascade()))
    assert not RegionHead.fits(detectors.plain(detectors.retina()))
    assert not RegionHead.fits(nn.Linear(1, 1))


@pytest.mark.parametrize("network", [detectors.faster, detectors.cascade])
def test_the_box_of_the_chosen_class_counts(network: Any) -> None:
    """Faster R-CNN regresses a box a class, the first stage of a cascade one box."""
    head = RegionHead(detectors.plain(network()))
    boxes = 1 if head.cascade else detectors.CLASSES
    regions = torch.tensor([[0.0, 10.0, 20.0, 30.0, 60.0], [1.0, 0.0, 0.0, 8.0, 8.0]])
    logits = torch.tensor([[0.0, 1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    reg = torch.zeros(2, 4 * boxes)
    reg[0, 4 * (boxes - 1)] = 10.0  # the last class moves the first region by one width, times the coder's deviation
    labels = torch.tensor([detectors.CLASSES - 1, 0])
    output = head.output(logits, reg, regions, labels)
    torch.testing.assert_close(output.boxes(), torch.tensor([[[30.0, 20.0, 50.0, 60.0], [0.0, 0.0, 8.0, 8.0]]]))
    # Background is no object's class.
    expected = [torch.e / (2 + torch.e + torch.e**2), 1 / 4]
    assert output.confidence()[0].tolist() == pytest.approx(expected)
    other = head.output(logits, reg, regions, torch.tensor([0, 0]))
    assert torch.equal(other.boxes()[0, 0], output.boxes()[0, 0]) == head.cascade


def test_the_teacher_chooses_the_class() -> None:
    detector = detectors.plain(detectors.faster())
    head = RegionHead(detector.eval())
    maps = detector.extract_feat(torch.rand(2, 3, detectors.SIZE, detectors.SIZE))
    records = {tap: maps[k] for k, tap in enumerate(head.teacher_taps)}
    regions = torch.tensor([[0.0, 10.0, 20.0, 30.0, 60.0], [1.0, 0.0, 0.0, 80.0, 80.0]])
    output, labels = head.of_teacher(records, regions)
    public = detector.roi_head._bbox_forward(maps, regions)
    assert torch.equal(labels, public["cls_score"][:, :-1].argmax(dim=1))
    chosen = public["bbox_pred"].view(2, -1, 4)[range(2), labels]
    coder = detector.roi_head.bbox_head.bbox_coder
    torch.testing.assert_close(output.boxes()[0], coder.decode(regions[:, 1:], chosen))
    assert not output.reg.requires_grad
