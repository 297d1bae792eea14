"""The RoI heads of student and teacher on the same regions."""

from typing import Any

import pytest
import torch
from torch import nn

from kd_mm.losses.region_output import RegionHead

from ..distillers import detectors


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
