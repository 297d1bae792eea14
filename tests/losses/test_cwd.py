"""CWD. Public values: MMRazor, float64."""

import pytest
from torch import Tensor

from kd_mm.losses import CWDLoss

from ..helpers.losses import of_maps
from ..helpers.waves import wave
from .test_pkd import FIXTURE_STUDENT, FIXTURE_TEACHER, STUDENT, TEACHER


@pytest.mark.parametrize(
    ("student", "teacher", "temperature", "expected"),
    [
        (FIXTURE_STUDENT, FIXTURE_TEACHER, 1.0, 0.345127),
        (FIXTURE_STUDENT, FIXTURE_TEACHER, 4.0, 0.398449),
        (STUDENT, TEACHER, 1.0, 1.0171063631432486),
        (STUDENT, TEACHER, 4.0, 1.2062807311967902),
    ],
)
def test_agrees_with_public_code(student: Tensor, teacher: Tensor, temperature: float, expected: float) -> None:
    value = CWDLoss(temperature=temperature)(*of_maps(student, teacher))
    assert float(value) == pytest.approx(expected, abs=1e-6)


def test_different_sizes_are_compared_at_the_smaller_or_refused() -> None:
    fine = STUDENT.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    for pair in ((fine, TEACHER), (STUDENT, TEACHER.repeat_interleave(3, dim=3))):
        assert float(CWDLoss(resize=True)(*of_maps(*pair))) == pytest.approx(1.0171063631432486, abs=1e-6)
    with pytest.raises(ValueError, match=r"stage 1 has maps \(2, 3, 4, 5\) \(student\) and \(2, 3, 6, 7\) \(teacher\)"):
        CWDLoss()(*of_maps(STUDENT, wave(2, 3, 6, 7)))
