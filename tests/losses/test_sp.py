"""SP. Public values: RepDistiller, float64."""

import pytest
import torch

from kd_mm.losses import SPLoss

from ..helpers.losses import of_maps
from ..helpers.waves import wave

MAPS = wave(4, 3, 2, 2, pace=0.8), wave(4, 5, 3, 3, pace=1.9)


def test_agrees_with_public_code() -> None:
    student = torch.tensor([[1.0, 2], [3, 1], [0, 2]], dtype=torch.float64)
    teacher = torch.tensor([[2.0, 1], [2, 3], [1, 1]], dtype=torch.float64)
    assert float(SPLoss()(*of_maps(student, teacher))) == pytest.approx(0.050596, abs=1e-6)
    assert float(SPLoss()(*of_maps(*MAPS))) == pytest.approx(0.11549795088340814, abs=1e-9)


def test_depends_on_neither_scale_nor_channel_order_and_reads_the_last_stage() -> None:
    student, teacher = MAPS
    value = float(SPLoss()(*of_maps(student, teacher)))
    assert float(SPLoss()(*of_maps(9 * student, teacher.flip(1)))) == pytest.approx(value, abs=1e-10)
    assert float(SPLoss()(*of_maps(student, student.flatten(1)))) == pytest.approx(0.0, abs=1e-20)
    assert SPLoss().stage_numbers(3) == (3,)
    assert SPLoss(stages=[1, 2]).stage_numbers(3) == (1, 2)
