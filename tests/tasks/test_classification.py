"""The classification task: what the exits of a classifier are trained with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmpretrain.models import losses
from torch import nn

from kd_mm.tasks import ClassificationTask

LABELS, SOFT = torch.tensor([0, 3, 3, 1, 2]), torch.softmax(torch.arange(20.0).view(5, 4).cos(), dim=1)


@pytest.mark.parametrize(
    ("build", "targets"),
    [
        (losses.CrossEntropyLoss, LABELS),
        (lambda: losses.CrossEntropyLoss(loss_weight=0.3, class_weight=[1.0, 2.0, 0.5, 3.0]), LABELS),
        (lambda: losses.CrossEntropyLoss(use_soft=True), SOFT),
        (lambda: losses.CrossEntropyLoss(use_sigmoid=True), (SOFT > 0.25).float()),
        (lambda: losses.LabelSmoothLoss(0.1, 4, mode="original"), LABELS),
        (lambda: losses.LabelSmoothLoss(0.1, 4, mode="classy_vision"), SOFT),
        (lambda: losses.FocalLoss(), (SOFT > 0.25).float()),
        (lambda: losses.SeesawLoss(num_classes=4), LABELS),
    ],
)
def test_exits_learn_by_the_students_own_loss_one_by_one(build: Any, targets: torch.Tensor) -> None:
    logits = (torch.arange(60.0, dtype=torch.float64).view(3, 5, 4) * 1.7).sin().requires_grad_()
    student = nn.Module()
    student.head = nn.Module()
    student.head.loss_module = build()
    values = ClassificationTask().exit_losses(student, logits, targets)
    own = build()
    expected = torch.stack([own(one, targets, avg_factor=5) for one in logits])
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(each.sum(), logits)[0] for each in (values, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
