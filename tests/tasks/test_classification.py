"""The classification task: what the exits of a classifier are trained with."""

from __future__ import annotations

import torch
from mmpretrain.models import ImageClassifier, losses
from torch import nn

from kd_mm.stages.recorder import Recorder
from kd_mm.tasks import ClassificationTask

LABELS, SOFT = torch.tensor([0, 3, 3, 1, 2]), torch.softmax(torch.arange(20.0).view(5, 4).cos(), dim=1)


def test_exits_learn_by_the_students_own_loss_one_by_one() -> None:
    for build, targets in (
        (losses.CrossEntropyLoss, LABELS),
        (lambda: losses.CrossEntropyLoss(loss_weight=0.3, class_weight=[1.0, 2.0, 0.5, 3.0]), LABELS),
        (lambda: losses.CrossEntropyLoss(use_soft=True), SOFT),
        (lambda: losses.CrossEntropyLoss(use_sigmoid=True), (SOFT > 0.25).float()),
        (lambda: losses.LabelSmoothLoss(0.1, 4, mode="original"), LABELS),
        (lambda: losses.LabelSmoothLoss(0.1, 4, mode="classy_vision"), SOFT),
        (lambda: losses.FocalLoss(), (SOFT > 0.25).float()),
        (lambda: losses.SeesawLoss(num_classes=4), LABELS),
    ):
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


def test_two_classifiers_of_one_network_are_summed_as_it_predicts() -> None:
    arch = {"embed_dims": 48, "channel_ratio": 1, "num_heads": 2, "depths": 12}
    head = {"type": "ConformerHead", "in_channels": [64, 48], "num_classes": 4, "init_cfg": None}
    backbone = {"type": "Conformer", "arch": arch, "base_channels": 16, "patch_size": 16}
    model = ImageClassifier(backbone, head=head).eval()
    task, images = ClassificationTask(), torch.randn(2, 3, 32, 32)
    reader = task.logits_reader(model, student=True)
    recorder = Recorder(model, reader.taps)
    with torch.no_grad(), recorder:
        summed = task.forward(model, images)
        logits = reader.read(recorder.take())
    with torch.no_grad():
        predicted = torch.stack([sample.pred_score for sample in model(images, mode="predict")])
    torch.testing.assert_close(logits, summed, rtol=0, atol=0)
    torch.testing.assert_close(logits.softmax(dim=1), predicted)
