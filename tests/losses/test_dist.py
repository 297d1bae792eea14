"""DIST. Public values: hunto/DIST_KD, float64."""

import pytest

from kd_mm.losses import DISTLoss

from .test_kd import FIXTURE, WAVES


@pytest.mark.parametrize(
    ("options", "pair", "expected"),
    [
        ({"temperature": 4.0}, FIXTURE, 20.530202),
        ({"temperature": 4.0}, WAVES, 24.600337369080723),
        ({}, WAVES, 1.1742488239375877),
        ({"temperature": 2.0, "beta": 2.0, "gamma": 0.5}, WAVES, 7.480327084749),
    ],
)
def test_agrees_with_public_code(options: dict, pair: tuple, expected: float) -> None:
    assert float(DISTLoss(**options)(*pair)) == pytest.approx(expected, abs=1e-6)
