"""Attention transfer. Public values: RepDistiller, float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from kd_mm.losses import ATLoss

from ..helpers.losses import of_maps
from .test_fitnets import LARGE, SMALL
from .test_pkd import FIXTURE_STUDENT, FIXTURE_TEACHER, STUDENT, TEACHER


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (FIXTURE_STUDENT, FIXTURE_TEACHER, 0.117755),
        (STUDENT, TEACHER, 0.010430555496270814),
        (SMALL, LARGE, 0.004348168177950665),
        (LARGE, SMALL, 0.004348168177950665),
    ],
)
def test_agrees_with_public_code(student: Tensor, teacher: Tensor, expected: float) -> None:
    assert float(ATLoss()(*of_maps(student, teacher))) == pytest.approx(expected, abs=1e-6)


def test_does_not_depend_on_the_scale() -> None:
    plain = ATLoss()(*of_maps(STUDENT, TEACHER))
    for scale in (1e-9, 1e9):
        torch.testing.assert_close(ATLoss()(*of_maps(scale * STUDENT, TEACHER / scale)), plain)


def test_another_power_by_numpy() -> None:
    def share(x: Tensor) -> np.ndarray:
        attention = np.abs(x.numpy()).mean(axis=1).reshape(2, -1)
        return attention / np.linalg.norm(attention, axis=1, keepdims=True)

    expected = np.square(share(STUDENT) - share(TEACHER)).mean()
    assert float(ATLoss(power=1)(*of_maps(STUDENT, TEACHER))) == pytest.approx(expected, abs=1e-12)
