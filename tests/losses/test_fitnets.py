"""FitNets by independent arithmetic."""

import numpy as np
import pytest
import torch

from kd_mm.losses import FitNetsLoss

from ..helpers.losses import of_maps
from ..helpers.waves import wave
from .test_pkd import STUDENT, TEACHER

SMALL, WIDE, LARGE = wave(2, 3, 4, 4, pace=0.9, size=2.0), wave(2, 5, 4, 4, pace=1.7) + 0.5, wave(2, 5, 8, 8, pace=1.3)


def test_by_numpy() -> None:
    expected = np.square(STUDENT.numpy() - TEACHER.numpy()).mean()
    assert float(FitNetsLoss()(*of_maps(STUDENT, TEACHER))) == pytest.approx(expected, abs=1e-12)
    pooled = LARGE.numpy().reshape(2, 5, 4, 2, 4, 2).mean(axis=(3, 5))
    expected = np.square(WIDE.numpy() - pooled).mean()
    for pair in ((WIDE, LARGE), (LARGE, WIDE)):
        assert float(FitNetsLoss()(*of_maps(*pair))) == pytest.approx(expected, abs=1e-12)


def test_maps_of_different_aspects_meet_at_the_smaller_size() -> None:
    tall, flat = torch.ones(1, 2, 6, 3), torch.full((1, 2, 2, 5), 3.0)
    assert float(FitNetsLoss()(*of_maps(tall, flat))) == 4.0
