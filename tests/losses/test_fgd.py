"""FGD. Public values: yzd-v/FGD, float64."""

import pytest
import torch

from kd_mm.losses import FGDLoss, Observation
from kd_mm.losses.fgd import object_masks

from ..helpers.losses import BOXES, context, fgd, fgd_targets, of_maps
from ..helpers.waves import wave

PUBLIC = {
    4: {"alpha": 10.552272133451662, "beta": 3.963945518675553, "gamma": 29.34854131224498, "lambda_": 355.48631508375},
    3: {"alpha": 6.0447152125145145, "beta": 8.683153067500438, "gamma": 30.593621321966, "lambda_": 342.2991787744905},
}


def inputs(channels: int) -> tuple[Observation, Observation]:
    """Return maps of two images; the second one has an object only where there are four channels."""
    targets = fgd_targets(BOXES if channels == 4 else (BOXES[0], []))
    return of_maps(wave(2, channels, 6, 8, pace=0.9), wave(2, 4, 6, 8, pace=1.7, size=1.5), targets=targets)


@pytest.mark.parametrize("channels", PUBLIC)
def test_agrees_with_public_code(channels: int) -> None:
    for term, expected in PUBLIC[channels].items():
        loss = fgd(channels, **{**dict.fromkeys(PUBLIC[channels], 0.0), term: 1.0})
        assert float(loss(*inputs(channels))) == pytest.approx(expected, rel=1e-6), term


def test_masks_by_hand() -> None:
    boxes = [torch.tensor([[10.0, 10.0, 30.0, 20.0], [0.0, 0.0, 64.0, 48.0]]), torch.zeros(0, 4)]
    boxes.append(torch.tensor([[40.0, 30.0, 64.0, 48.0]]))
    objects, background = object_masks(boxes, (48, 64), torch.zeros(3, 1, 6, 8))
    # Cells of 8 pixels: columns 1..4 and rows 1..3 for the small box; the complete image counts 9 x 7 cells.
    expected = torch.full((6, 8), 1 / 63)
    expected[1:4, 1:5] = 1 / 12
    torch.testing.assert_close(objects[0], expected)
    assert float(background[0].sum()) == 0
    assert float(objects[1].sum()) == 0
    torch.testing.assert_close(background[1], torch.full((6, 8), 1 / 48))
    # The last box covers columns 5..8 and rows 3..6, of which 3 x 3 lie on the map.
    expected = torch.zeros(6, 8)
    expected[3:, 5:] = 1 / 16
    torch.testing.assert_close(objects[2], expected)
    torch.testing.assert_close(background[2], (expected == 0) / 39)


def test_parameters_of_the_stages_that_are_read() -> None:
    loss = FGDLoss(stages=[2])
    loss.setup(context((4, 4), (5, 7), (6, 6)))
    assert set(loss.blocks) == {"stage2"}
    assert loss.blocks["stage2"].align.weight.shape == (7, 5, 1, 1)
    feature = torch.randn(2, 7, 3, 3)
    # A relation starts as the identity.
    torch.testing.assert_close(loss.blocks["stage2"].student(feature), feature, rtol=0, atol=0)


def test_different_sizes_are_refused() -> None:
    student, teacher = inputs(4)
    with pytest.raises(ValueError, match=r"stage 1 has maps of \(6, 8\) \(student\) and \(3, 4\) \(teacher\)"):
        fgd(4)(student, Observation(features={1: teacher.features[1][:, :, ::2, ::2]}))
