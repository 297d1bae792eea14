"""BYOT's hint, by hand."""

import pytest
import torch

from kd_mm.losses import BYOTHintLoss, Observation


def test_by_hand() -> None:
    deep = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]])  # spatial means 2 and 1
    student = Observation(features={1: deep, 2: deep}, embeddings={1: torch.tensor([[3.0, -1.0]])})
    assert float(BYOTHintLoss()(student)) == 1.0 + 4.0
    assert BYOTHintLoss(stages=[1]).stage_numbers(3) == (1, 3)
    narrow = Observation(features=student.features, embeddings={1: torch.zeros(1, 3)})
    with pytest.raises(ValueError, match="exit of stage 1 ends with 3 channels, the last stage has 2"):
        BYOTHintLoss()(narrow)
