"""Multi-label classification: what is compared, what exits learn, and how both are scored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample
from sklearn.metrics import roc_auc_score

from kd_mm.tasks import MultiLabelTask

from ..distillers.conftest import batch, build, classifier, recipe

LABELS = [[0, 3], [1], [], [0, 1, 4], [2], [4]]
HOT = torch.stack([F.one_hot(torch.tensor(labels, dtype=torch.long), 5).sum(0) for labels in LABELS]).float()


def network(depth: int = 8, width: int = 8, head: str = "MultiLabelLinearClsHead") -> dict[str, Any]:
    config = classifier(depth, width=width)
    config["head"] = {"type": f"mmpretrain.{head}", "num_classes": 5, "in_channels": 4 * width}
    if head == "CSRAClsHead":
        config |= {"neck": None, "head": {**config["head"], "num_heads": 2, "lam": 0.1}}
    return config


@pytest.mark.parametrize("head", ["MultiLabelLinearClsHead", "CSRAClsHead"])
def test_sigmoids_are_compared_and_exits_learn_several_labels(head: str) -> None:
    losses = {"kd": {"type": "kd_mm.KDLoss", "temperature": 3.0}, **recipe()["losses"]}
    teacher = {"config": network(14, 16), "random_weights": True}
    model = build(student=network(head=head), teacher=teacher, recipe=recipe(losses=losses, student_loss_weight=1.0))
    model.eval()
    data = batch(len(LABELS))
    data["data_samples"] = [DataSample().set_gt_label(labels) for labels in LABELS]
    data = model.data_preprocessor(data, True)
    found = model(**data, mode="loss")
    student, teacher = model.student(data["inputs"]), model.teachers["teacher"].logits(data["inputs"])
    p = torch.sigmoid(teacher / 3)
    entropy = F.binary_cross_entropy(p, p)
    torch.testing.assert_close(found["kd"], 9 * (F.binary_cross_entropy(torch.sigmoid(student / 3), p) - entropy))
    torch.testing.assert_close(
        found["loss_student"], F.binary_cross_entropy(student.sigmoid(), HOT, reduction="sum") / len(LABELS)
    )
    with model.recorder, torch.no_grad():
        model.student(data["inputs"])
        stages = model.objective.observe(model.task.batch(model.student, *data.values(), model.recorder.take(), ()))
    exits = [F.binary_cross_entropy_with_logits(stages.stage_logits[i], HOT, reduction="sum") / 6 for i in (1, 2)]
    torch.testing.assert_close(found["aux"], torch.stack(exits).sum())
    parts = [found[f"srd.stage{i}"] for i in (1, 2, 3)]
    assert all(0 < float(part) < 16 for part in parts)


def test_ranking_is_the_area_under_the_curve_and_guessing_is_not_above_chance() -> None:
    torch.manual_seed(0)
    truth = (torch.rand(400, 6) < torch.tensor([0.5, 0.2, 0.05, 0.7, 0.01, 0.0])).float()
    guesses = torch.randn(400, 6)
    task = MultiLabelTask()
    for logits, at_chance in ((guesses, True), (guesses + 0.8 * truth, False), (torch.tensor([3.0, -2] * 3), True)):
        logits = (logits.expand(400, 6) * 32).round() / 32  # bins
        found = task.measure(sum(task.tally(logits[i : i + 50], truth[i : i + 50]) for i in range(0, 400, 50)))
        expected = roc_auc_score(truth[:, :5], logits[:, :5])
        assert found.score == pytest.approx(expected, abs=1e-9)
        assert found.at_chance == at_chance
