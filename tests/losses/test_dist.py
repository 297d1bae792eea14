"""DIST. Public values: hunto/DIST_KD, float64."""

from __future__ import annotations

import numpy as np
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


def test_is_pearsons_correlation_of_probabilities() -> None:
    p_s, p_t = (side.logits.softmax(1).numpy() for side in WAVES)
    rows = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p_s, p_t, strict=True)])
    columns = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p_s.T, p_t.T, strict=True)])
    assert float(DISTLoss(gamma=0.0)(*WAVES)) == pytest.approx(1 - rows, abs=1e-6)
    assert float(DISTLoss(beta=0.0)(*WAVES)) == pytest.approx(1 - columns, abs=1e-6)
