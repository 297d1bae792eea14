"""The targets that a student's dense head assigns."""

import torch
from mmengine.structures import InstanceData

from kd_mm.losses.observation import DenseAssignment
from kd_mm.tasks.dense_targets import assigning, read_assignment

from ..helpers.dense_heads import CLASSES, HEADS, SHAPE, STRIDES, Detector, pyramid


def assigned(kind: str, boxes: list[list[list[float]]]) -> DenseAssignment:
    """What a head assigns in the loss of two images, of which the second is smaller than the padded batch."""
    head, found = Detector(kind).bbox_head, []
    tensors = [torch.tensor(image).view(-1, 4) for image in boxes]
    truth = [InstanceData(bboxes=one, labels=torch.arange(len(one)) % CLASSES) for one in tensors]
    metas = [{"img_shape": shape, "pad_shape": shape} for shape in (SHAPE, (40, 60))]
    with assigning(head, found):
        head.loss_by_feat(*head(pyramid()), truth, metas)
    assert "get_targets" not in vars(head)
    assert len(found) == 1
    assignment = read_assignment(head, found[0], batch=2)
    assert assignment is not None
    return assignment


OBJECTS = [[[5.0, 5.0, 40.0, 37.0], [50.0, 10.0, 90.0, 60.0]], [[2.0, 3.0, 30.0, 33.0]]]


def test_the_assignment_is_the_students_own() -> None:
    for kind in HEADS:
        assignment = assigned(kind, OBJECTS)
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


def test_images_without_objects_have_an_assignment() -> None:
    for kind in HEADS:
        assignment = assigned(kind, [[], []])
        assert not assignment.positive.any()
        assert float(assignment.normalizer) >= 1


def test_targets_of_an_unknown_form_are_no_assignment() -> None:
    head = Detector("RetinaHead").bbox_head
    assert read_assignment(head, ([torch.zeros(2, 3)], [torch.zeros(2, 3)]), batch=2) is None
    # As AutoAssign gives them, and as FSAF leaves them behind.
    assert read_assignment(Detector("FCOSHead").bbox_head, ([torch.zeros(6, 3)], [torch.zeros(6, 3)]), batch=2) is None
    assert read_assignment(head, ([torch.zeros(6)], [torch.zeros(2, 3)], [], [], 1.0), batch=2) is None
