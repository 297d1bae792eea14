"""The detection task by hand: targets, exit losses, measures."""

import math
from typing import Any

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData
from torch import Tensor, nn

from kd_mm.tasks import ClassificationTask, DetectionTask
from kd_mm.tasks.targets import label_regions, read_annotations
from kd_mm.utils.suggest import StepError

from ..helpers.errors import assert_refused

K = 3


def sample(boxes: Any, labels: Any, ignored: Any = (), ignored_labels: Any = (), wrap: Any = None) -> DetDataSample:
    """One image of 40 x 60 pixels on a padded tensor of 64 x 64."""
    meta = {"img_shape": (40, 60), "ori_shape": (80, 120), "batch_input_shape": (64, 64), "scale_factor": (0.5, 0.5)}
    wrap = wrap or (lambda rows: rows)
    found = DetDataSample(metainfo=meta)
    for name, rows, kinds in (("gt_instances", boxes, labels), ("ignored_instances", ignored, ignored_labels)):
        rows = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
        found.set_field(
            InstanceData(bboxes=wrap(rows), labels=torch.tensor(kinds, dtype=torch.long)), name, dtype=InstanceData
        )
    return found


def detector(classes: int = K, **parts: Any) -> nn.Module:
    """All that the task asks a dense detector before training: its number of classes."""
    model = nn.Module()
    model.bbox_head = nn.Module()
    model.bbox_head.num_classes = classes
    for name, part in parts.items():
        setattr(model, name, part)
    return model


def bound(output: str = "image", **options: Any) -> DetectionTask:
    task = DetectionTask(**options)
    task.setup(detector(), output)
    return task


BOXES = [[0.0, 0, 20, 20], [30, 10, 50, 40]]


# -- what is in an image --------------------------------------------------------------------------------------------


def test_a_class_is_present_absent_or_left_out() -> None:
    samples = [
        sample(BOXES, [0, 0], [[1.0, 1, 9, 9]], [2]),  # 2 only as ignored: does not count
        sample(BOXES[:1], [1], [[30.0, 1, 39, 9]], [1]),  # 1 both ways: counts
        sample([], [], [[0.0, 0, 5, 5]], [0]),
        sample([], []),
    ]
    targets = read_annotations(samples, K)
    assert targets.present.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert targets.valid.tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 1, 1]]
    assert targets.shape == (64, 64)
    assert [len(boxes) for boxes in targets.boxes] == [2, 1, 0, 0]
    assert [labels.tolist() for labels in targets.labels] == [[0, 0], [1], [], []]
    assert len(targets) == 4


def test_annotations_without_ignored_instances_or_of_unknown_classes() -> None:
    plain = DetDataSample(metainfo={"img_shape": (40, 60, 3)})
    plain.gt_instances = InstanceData(bboxes=torch.tensor(BOXES), labels=torch.tensor([1, 2]))
    targets = read_annotations([plain], K)
    assert targets.valid.tolist() == [[1, 1, 1]]
    assert targets.shape == (40, 60)
    targets = read_annotations([sample(BOXES[:1], [0], BOXES, [-1, K])], K)
    assert targets.valid.tolist() == [[1, 1, 1]]
    assert_refused("object is of class 3, but the student has 3 classes", read_annotations, [sample(BOXES, [0, K])], K)
    with pytest.raises(StepError, match="^the samples have no boxes of objects"):
        read_annotations([DetDataSample()], num_classes=1)  # lanes, e.g.


def test_classes_are_counted_at_whatever_head_there_is() -> None:
    def holder(**attributes: Any) -> nn.Module:
        module = nn.Module()
        for name, value in attributes.items():
            setattr(module, name, value)
        return module

    task, head = DetectionTask(), holder(num_classes=7)
    assert task.num_classes(holder(bbox_head=head), None) == 7
    assert task.num_classes(holder(roi_head=holder(bbox_head=nn.ModuleList([head, holder(num_classes=8)]))), None) == 7
    assert task.num_classes(holder(mask_head=head), None) == 7
    assert task.num_classes(holder(panoptic_head=holder(num_classes=9, num_things_classes=4)), None) == 4
    assert task.num_classes(holder(backbone=head), None) is None


def test_box_structures_and_tensors_read_alike() -> None:
    plain = [sample(BOXES, [0, 2], [[1.0, 1, 21, 21]], [1])]
    wrapped = [sample(BOXES, [0, 2], [[1.0, 1, 21, 21]], [1], wrap=HorizontalBoxes)]
    assert isinstance(wrapped[0].gt_instances.bboxes, HorizontalBoxes)
    first, second = read_annotations(plain, K), read_annotations(wrapped, K)
    assert type(second.boxes[0]) is Tensor
    assert torch.equal(first.boxes[0], second.boxes[0])
    regions = torch.tensor([[0.0, 0, 0, 20, 20], [0, 0, 0, 1, 1]])
    assert torch.equal(label_regions(first, regions), label_regions(second, regions))


# -- regions --------------------------------------------------------------------------------------------------------


def test_regions_take_the_class_of_the_object_they_lie_on() -> None:
    samples = [
        sample(BOXES, [0, 2], [[0.0, 30, 10, 40], [0, 0, 20, 20]], [1, 1]),
        sample([], [], [[0.0, 0, 10, 10]], [1]),
        sample(BOXES, [1, 2]),
    ]
    regions = torch.tensor(
        [
            [0.0, 0, 0, 20, 20],  # on an object and on an ignored one: the object
            [0, 0, 0, 20, 10],  # IoU exactly a half
            [0, 0, 0, 20, 9],  # less, of the object and of the ignored one
            [0, 30, 10, 50, 39],
            [0, 0, 31, 10, 40],  # ignored
            [1, 0, 0, 10, 10],  # ignored, in an image without objects
            [1, 20, 20, 30, 30],
            [2, 0, 0, 20, 20],
            [2, 0, 30, 10, 40],  # ignored in another image only
        ]
    )
    targets = read_annotations(samples, K)
    found = label_regions(targets, regions)
    assert found.tolist() == [0, 0, K, 2, K, K, K, 1, K]
    shuffled = torch.randperm(len(regions), generator=torch.Generator().manual_seed(0))
    assert torch.equal(label_regions(targets, regions[shuffled]), found[shuffled])


# -- losses of exits ------------------------------------------------------------------------------------------------


def test_exit_loss_is_binary_cross_entropy_over_all_images_and_classes() -> None:
    targets = read_annotations([sample(BOXES, [0, 0], [[1.0, 1, 9, 9]], [2]), sample(BOXES[:1], [1])], K)
    logits = torch.tensor([[0.5, -1.0, 3.0], [2.0, 0.25, -0.75]], dtype=torch.float64)

    def bce(z: float, y: int) -> float:
        p = 1 / (1 + math.exp(-z))
        return -math.log(p if y else 1 - p)

    # Class 2 of the first image is left out; the mean is over B * K all the same.
    expected = (bce(0.5, 1) + bce(-1.0, 0) + bce(2.0, 0) + bce(0.25, 1) + bce(-0.75, 0)) / 6
    assert float(bound().exit_losses(detector(), logits[None], targets)) == pytest.approx(expected, rel=1e-12)
    half = bound().exit_losses(detector(), logits[None].bfloat16(), targets)
    assert half.dtype == torch.float32


# -- measures -------------------------------------------------------------------------------------------------------


def test_correct_is_the_share_of_classes_predicted_right() -> None:
    targets = read_annotations(
        [sample(BOXES, [0, 0], [[1.0, 1, 9, 9]], [2]), sample(BOXES[:1], [1]), sample([], [], BOXES, [0, 1])], K
    )
    logits = torch.tensor([[1.0, 1.0, 9.0], [-1.0, 1.0, -1.0], [4.0, 4.0, 4.0]])
    assert bound().correct(logits, targets).tolist() == [0.5, 1.0, 0.0]


class Oracle(nn.Module):
    """A detector that predicts what it was given, one list of ``(box, label, score)`` an image."""

    def __init__(self, predictions: list[list[tuple[list[float], int, float]]]) -> None:
        super().__init__()
        self.predictions = predictions

    def predict(self, inputs: Tensor, samples: list[DetDataSample], rescale: bool = True) -> list[DetDataSample]:
        assert rescale
        for predicted, one in zip(self.predictions, samples, strict=True):
            one.pred_instances = InstanceData(
                bboxes=torch.tensor([box for box, _, _ in predicted]).reshape(-1, 4),
                labels=torch.tensor([label for _, label, _ in predicted], dtype=torch.long),
                scores=torch.tensor([score for _, _, score in predicted]),
            )
        return samples


@pytest.mark.parametrize("wrap", [None, HorizontalBoxes])
def test_score_counts_the_objects_among_the_best_detections(wrap: Any) -> None:
    for predicted, found in (
        ([(BOXES[0], 0, 0.9), (BOXES[1], 2, 0.8)], 2),
        ([(BOXES[1], 2, 0.8), (BOXES[0], 0, 0.9)], 2),  # in any order
        ([(BOXES[0], 1, 0.9), (BOXES[1], 2, 0.8)], 1),  # a wrong class
        ([(BOXES[0], 0, 0.9), (BOXES[0], 0, 0.8), (BOXES[1], 2, 0.1)], 1),  # two objects: the best two count
        ([([0.0, 0, 20, 9], 0, 0.9)], 0),  # too little overlap
        ([([0.0, 0, 20, 10], 0, 0.9)], 1),
        ([], 0),
    ):
        samples = [sample(BOXES, [0, 2], wrap=wrap), sample([], [])]
        model = Oracle([predicted, [(BOXES[0], 0, 1.0)]])
        assert bound().score(model, torch.zeros(2, 3, 64, 64), samples).tolist() == [found, 2]


def test_region_proposal_networks_have_one_class_and_cells_belong_to_detection() -> None:
    objects = [sample([[0, 0, 20, 20]], [2])]
    targets = read_annotations(objects, num_classes=1, class_agnostic=True)
    assert (targets.present.tolist(), targets.labels[0].tolist()) == ([[1.0]], [0])
    with pytest.raises(ValueError, match="^an annotated object is of class 2, but the student has 1 classes"):
        read_annotations(objects, num_classes=1)
    with pytest.raises(ValueError, match="belong to detection"):
        ClassificationTask().setup(detector(), True)
