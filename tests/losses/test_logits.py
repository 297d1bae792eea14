"""KD, DKD, DIST and logit standardisation.

Public values, float64: mdistiller (KD with standardisation, DKD), CuriousAI/mean-teacher (KD at T 1), hunto/DIST_KD.
"""

import pytest
import torch
import torch.nn.functional as F

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
        (DKDLoss(), FIXTURE, 0.723791),
        (DKDLoss(), WAVES, 22.225359926810768),
        (DKDLoss(temperature=1.0, beta=0.5), WAVES, 0.7511583416626845),
        (DKDLoss(temperature=2.0, alpha=2.0, beta=3.0, standardize=True), WAVES, 2.4143444741625775),
        (DISTLoss(temperature=4.0), FIXTURE, 20.530202),
        (DISTLoss(temperature=4.0), WAVES, 24.600337369080723),
        (DISTLoss(), WAVES, 1.1742488239375877),
        (DISTLoss(temperature=2.0, beta=2.0, gamma=0.5), WAVES, 7.480327084749),
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


def test_dkd_with_beta_one_minus_p_is_hintons_kd() -> None:
    student, teacher = WAVES
    p = (teacher.logits / 4).softmax(1).gather(1, student.targets[:, None])[:, 0]
    total = 0.0
    for i in range(4):
        row = of_logits(student.logits[i : i + 1], teacher.logits[i : i + 1], student.targets[i : i + 1])
        total += float(DKDLoss(beta=float(1 - p[i]))(*row)) / 4
    assert total == pytest.approx(float(KDLoss(temperature=4.0)(student, teacher)), abs=1e-10)


def test_soft_labels_of_dkd_count_as_their_largest_class_and_other_targets_are_refused() -> None:
    student, teacher = WAVES
    soft = F.one_hot(student.targets, 6) * 0.6 + 0.4 / 6
    hard = DKDLoss()(student, teacher)
    assert torch.equal(DKDLoss()(*of_logits(student.logits, teacher.logits, soft)), hard)
    with pytest.raises(ValueError, match="one labelled class for each of the 4 rows of logits"):
        DKDLoss()(*of_logits(student.logits, teacher.logits, torch.tensor([1])))
