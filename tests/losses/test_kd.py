"""KD and logit standardisation. Public values: mdistiller with standardisation, CuriousAI/mean-teacher (T 1)."""

import pytest
import torch

from kd_mm.losses import DISTLoss, DKDLoss, KDLoss, Loss, StageResponseLoss

from ..helpers.losses import of_logits
from ..helpers.waves import wave

FIXTURE = of_logits(
    torch.tensor([[1.0, 0, -1], [0.5, 0.5, 0]], dtype=torch.float64),
    torch.tensor([[2.0, 1, 0], [0, 1, 2]], dtype=torch.float64),
    torch.tensor([0, 2]),
)
WAVES = of_logits(wave(4, 6, pace=0.9, size=2.0), wave(4, 6, pace=1.7, size=3.0) + 0.5, torch.tensor([0, 5, 2, 3]))


@pytest.mark.parametrize(
    ("loss", "pair", "expected"),
    [
        (KDLoss(temperature=1.0), WAVES, 1.4390219805804),
        (KDLoss(temperature=4.0), FIXTURE, 0.263687),
        (KDLoss(temperature=2.0, standardize=True), FIXTURE, 0.604914),
        (KDLoss(temperature=2.0, standardize=True), WAVES, 0.7309082436932184),
    ],
)
def test_agrees_with_public_code(loss: Loss, pair: tuple, expected: float) -> None:
    assert float(loss(*pair)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", [KDLoss, DKDLoss, DISTLoss, StageResponseLoss])
def test_standardised_logits_have_no_scale_and_no_level(kind: type[Loss]) -> None:
    student, teacher = WAVES
    value = float(kind(standardize=True)(student, teacher))
    changed = of_logits(7 * student.logits - 3, 0.2 * teacher.logits + 11, student.targets)
    assert float(kind(standardize=True)(*changed)) == pytest.approx(value, abs=1e-5)
    assert float(kind()(*changed)) != pytest.approx(float(kind()(student, teacher)), abs=1e-3)
    equal = of_logits(3 * teacher.logits, teacher.logits, student.targets)
    assert float(kind(standardize=True)(*equal)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("kind", [KDLoss, StageResponseLoss])
def test_sigmoids_are_not_standardised(kind: type[Loss]) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: standardize=True needs classes that exclude each other"):
        kind(standardize=True, multilabel=True)
