"""The relations of the classes in a teacher's features: computed once, stored, read by WKD."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kd_mm.preparation.features import class_relations

from ..helpers.digits import digits_run, run_log
from ..helpers.waves import wave


def cka(one: Tensor, other: Tensor) -> float:
    """Return the linear CKA of two sets of features ``(n, D)`` by their covariances."""
    one, other = one - one.mean(dim=0), other - other.mean(dim=0)
    return float((other.T @ one).norm() ** 2 / ((one.T @ one).norm() * (other.T @ other).norm()))


def test_relations_are_the_linear_cka_of_every_two_classes() -> None:
    features, labels = wave(3, 4, 5, pace=1.3).float(), torch.arange(3).repeat_interleave(4)
    relations = class_relations(features.flatten(0, 1), labels, 3, 500)
    public = [0.8965877674392198, 0.8546656941519521, 0.8961279745995495]  # JiamingLv/WKD
    assert [float(relations[pair]) for pair in ((0, 1), (0, 2), (1, 2))] == pytest.approx(public, abs=1e-5)
    assert relations.diagonal().tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    few = class_relations(features.flatten(0, 1), labels, 3, 3)
    assert float(few[0, 2]) == pytest.approx(cka(features[0, :3], features[2, :3]), abs=1e-5)
    # A smaller class repeats its images.
    small = class_relations(features.flatten(0, 1)[:-1], labels[:-1], 3, 500)
    assert float(small[0, 2]) == pytest.approx(cka(features[0], features[2, [0, 1, 2, 0]]), abs=1e-5)


def test_a_class_of_one_image_is_related_to_no_other() -> None:
    features, labels = wave(7, 5), torch.tensor([0, 0, 0, 2, 2, 2, 1])
    relations = class_relations(features, labels, 4, 500)
    assert float(relations[0, 2]) == pytest.approx(cka(features[:3], features[3:6]), abs=1e-5)
    relations[0, 2] = relations[2, 0] = 0.0
    torch.testing.assert_close(relations, torch.eye(4))


def test_a_run_relates_the_classes_before_its_first_step_and_once(tmp_path: Path) -> None:
    costs = []
    for name in ("first", "second"):
        options = {"default_hooks.prepare_teachers.cache_dir": str(tmp_path / "shared")}
        runner = digits_run(tmp_path / name, "wkd", samples=4, **options)
        runner.train()
        log = run_log(runner)
        assert "relations of teacher 'teacher', linear CKA of two classes: mean: " in log
        assert "loss_wkd_logits" in log
        assert "loss_wkd_features" in log
        costs.append(runner.model.losses["wkd_logits"].cost)
    assert len(list((tmp_path / "shared").glob("teacher_relations_teacher_*.pth"))) == 1
    assert torch.equal(*costs)
    assert costs[0].shape == (10, 10)
    assert float(costs[0].diagonal().max()) < 1e-6
    assert float(costs[0][~torch.eye(10, dtype=torch.bool)].min()) > 1e-4
