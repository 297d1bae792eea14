"""Losses on maps of features: FitNets, AT, CWD, PKD, SP, VID and MGD, against public code and by hand."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_mm.losses import ATLoss, CWDLoss, FitNetsLoss, Loss, MGDLoss, PKDLoss, SPLoss, VIDLoss

from ..helpers.losses import context, fgd_targets, mgd, of_maps, vid
from ..helpers.waves import wave

STUDENT, TEACHER = wave(2, 3, 4, 5, pace=0.9, size=2.0), wave(2, 3, 4, 5, pace=1.7) + 0.5
LARGER = wave(2, 3, 6, 7, pace=1.3)
FIXTURE = (
    torch.arange(16, dtype=torch.float64).view(2, 2, 2, 2) / 10,
    torch.tensor([[[[1, 0], [2, 1]], [[0, 3], [1, 1]]], [[[2, 2], [0, 1]], [[1, 0], [0, 2]]]], dtype=torch.float64),
)
SMALL, WIDE, LARGE = wave(2, 3, 4, 4, pace=0.9, size=2.0), wave(2, 5, 4, 4, pace=1.7) + 0.5, wave(2, 5, 8, 8, pace=1.3)
ROWS = (
    torch.tensor([[1.0, 2], [3, 1], [0, 2]], dtype=torch.float64),
    torch.tensor([[2.0, 1], [2, 3], [1, 1]], dtype=torch.float64),
)
BATCH = wave(4, 3, 2, 2, pace=0.8), wave(4, 5, 3, 3, pace=1.9)
#: The public code printed to six digits, and in full.
six, full = partial(pytest.approx, abs=1e-6), partial(pytest.approx, abs=1e-9)


@pytest.mark.parametrize(
    ("loss", "pair", "expected"),
    [
        (PKDLoss(), FIXTURE, six(0.911831)),
        (PKDLoss(), (STUDENT, TEACHER), full(0.9659171240796629)),
        (PKDLoss(resize="student"), (STUDENT, LARGER), full(0.9886680827226406)),
        (PKDLoss(resize="teacher"), (STUDENT, LARGER), full(0.9758718067185602)),
        (CWDLoss(temperature=1.0), FIXTURE, six(0.345127)),
        (CWDLoss(temperature=4.0), FIXTURE, six(0.398449)),
        (CWDLoss(temperature=1.0), (STUDENT, TEACHER), full(1.0171063631432486)),
        (CWDLoss(temperature=4.0), (STUDENT, TEACHER), full(1.2062807311967902)),
        (ATLoss(), FIXTURE, six(0.117755)),
        (ATLoss(), (STUDENT, TEACHER), full(0.010430555496270814)),
        (ATLoss(), (SMALL, LARGE), full(0.004348168177950665)),
        (ATLoss(), (LARGE, SMALL), full(0.004348168177950665)),
        (SPLoss(), ROWS, six(0.050596)),
        (SPLoss(), BATCH, full(0.11549795088340814)),
        (vid(), (SMALL, WIDE), full(0.44559720757184007)),
        (vid(), (SMALL, LARGE), full(0.20213178414879823)),
    ],
)
def test_agrees_with_public_code(loss: Loss, pair: tuple[Tensor, Tensor], expected: object) -> None:
    assert float(loss(*of_maps(*pair))) == expected


def test_maps_of_different_sizes_are_compared_at_the_smaller_or_refused() -> None:
    fine = STUDENT.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    for pair in ((fine, TEACHER), (STUDENT, TEACHER.repeat_interleave(3, dim=3))):
        assert float(PKDLoss(resize="smaller")(*of_maps(*pair))) == pytest.approx(0.9659171240796629, abs=1e-6)
        assert float(CWDLoss(resize=True)(*of_maps(*pair))) == pytest.approx(1.0171063631432486, abs=1e-6)
    with pytest.raises(ValueError, match=r"stage 1 has maps \(2, 3, 4, 5\) \(student\) and \(2, 3, 6, 7\) \(teacher\)"):
        CWDLoss()(*of_maps(STUDENT, LARGER))


def test_pkd_is_one_minus_the_correlation_of_each_channel() -> None:
    count = STUDENT.numel() // 3
    student, teacher = (x.transpose(0, 1).reshape(3, -1).numpy() for x in (STUDENT, TEACHER))
    distance = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(student, teacher, strict=True)])
    value = PKDLoss()(*of_maps(STUDENT, TEACHER))
    assert float(value) == pytest.approx((count - 1) / count * distance, abs=1e-5)
    assert float(PKDLoss()(*of_maps(STUDENT, 40 * TEACHER - 7))) == pytest.approx(float(value), abs=1e-5)


def test_pkd_weighs_objects_alike() -> None:
    student, teacher = wave(2, 3, 6, 8, pace=0.9, size=2.0), wave(2, 3, 6, 8, pace=1.7)
    error = PKDLoss().compare(student, teacher)
    assert error.shape == (2, 6, 8)
    # Cells of 8 pixels. An object of 3 x 2 cells, one of 2 x 2 half on the map, and an image without objects.
    targets = fgd_targets(([[8, 8, 24, 15], [48, 40, 55, 47]], []))
    observations = of_maps(student, teacher, targets=targets)
    weights = torch.zeros(2, 6, 8, dtype=torch.float64)
    weights[0, 1:3, 1:4], weights[0, 5:7, 6:8] = 1 / 6, 1 / 4
    objects = (weights * error).sum() / weights.sum()
    for share in (0.5, 1.0):
        expected = (1 - share) * float(error.mean()) + share * float(objects)
        assert float(PKDLoss(object_share=share)(*observations)) == pytest.approx(expected, rel=1e-9)
    without = of_maps(student, teacher, targets=fgd_targets(([], [])))
    assert float(PKDLoss(object_share=0.5)(*without)) == pytest.approx(0.5 * float(error.mean()), rel=1e-9)


def test_pkd_of_a_single_value_has_a_finite_gradient() -> None:
    student = torch.ones(1, 3, 1, 1, requires_grad=True)
    PKDLoss()(*of_maps(student, torch.rand(student.shape))).backward()
    assert torch.isfinite(student.grad).all()


def test_attention_has_no_scale_and_another_power_by_numpy() -> None:
    plain = ATLoss()(*of_maps(STUDENT, TEACHER))
    for scale in (1e-9, 1e9):
        torch.testing.assert_close(ATLoss()(*of_maps(scale * STUDENT, TEACHER / scale)), plain)

    def share(x: Tensor) -> np.ndarray:
        attention = np.abs(x.numpy()).mean(axis=1).reshape(2, -1)
        return attention / np.linalg.norm(attention, axis=1, keepdims=True)

    expected = np.square(share(STUDENT) - share(TEACHER)).mean()
    assert float(ATLoss(power=1)(*of_maps(STUDENT, TEACHER))) == pytest.approx(expected, abs=1e-12)


def test_fitnets_by_numpy_and_at_the_smaller_size() -> None:
    expected = np.square(STUDENT.numpy() - TEACHER.numpy()).mean()
    assert float(FitNetsLoss()(*of_maps(STUDENT, TEACHER))) == pytest.approx(expected, abs=1e-12)
    pooled = LARGE.numpy().reshape(2, 5, 4, 2, 4, 2).mean(axis=(3, 5))
    expected = np.square(WIDE.numpy() - pooled).mean()
    for pair in ((WIDE, LARGE), (LARGE, WIDE)):
        assert float(FitNetsLoss()(*of_maps(*pair))) == pytest.approx(expected, abs=1e-12)
    tall, flat = torch.ones(1, 2, 6, 3), torch.full((1, 2, 2, 5), 3.0)
    assert float(FitNetsLoss()(*of_maps(tall, flat))) == 4.0


def test_sp_depends_on_neither_scale_nor_channel_order_and_reads_the_last_stage() -> None:
    student, teacher = BATCH
    value = float(SPLoss()(*of_maps(student, teacher)))
    assert float(SPLoss()(*of_maps(9 * student, teacher.flip(1)))) == pytest.approx(value, abs=1e-10)
    assert float(SPLoss()(*of_maps(student, student.flatten(1)))) == pytest.approx(0.0, abs=1e-20)
    assert SPLoss().stage_numbers(3) == (3,)
    assert SPLoss(stages=[1, 2]).stage_numbers(3) == (1, 2)


def test_initial_variances_of_vid() -> None:
    for variance in (1e-3, 5.0, 400.0):
        loss = VIDLoss(initial_variance=variance)
        loss.setup(context((3, 5), (4, 7)))
        assert [tuple(scale.shape) for scale in loss.scales.values()] == [(5,), (7,)]
        start = F.softplus(loss.scales["stage2"].double()) + 1e-5
        torch.testing.assert_close(start, torch.full_like(start, variance), rtol=1e-4, atol=0)


def convolve(feature: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return the convolution of maps ``(B, C, H, W)`` with a kernel of odd size and equal padding."""
    pad = weight.shape[-1] // 2
    padded = np.pad(feature, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = feature.shape[2:]
    result = np.zeros((len(feature), len(weight), height, width)) + bias[:, None, None]
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            window = padded[:, :, row : row + height, column : column + width]
            result += np.einsum("bchw,oc->bohw", window, weight[:, :, row, column])
    return result


@pytest.mark.parametrize("channels", [3, 5], ids=["aligned", "equal widths"])
def test_agrees_with_the_public_formula(channels: int) -> None:
    loss = mgd(channels, 5, reduction="sum")
    student, teacher = wave(2, channels, 4, 6, pace=0.9), wave(2, 5, 4, 6, pace=1.7)
    torch.manual_seed(3)
    value = float(loss(*of_maps(student, teacher)))
    torch.manual_seed(3)
    mask = (torch.rand(2, 1, 4, 6) >= 0.65).numpy()
    assert mask.any()
    assert not mask.all()
    weights = {name: parameter.detach().numpy() for name, parameter in loss.blocks["stage1"].named_parameters()}
    feature = student.numpy()
    if channels == 3:
        feature = convolve(feature, weights["align.weight"], weights["align.bias"])
    feature = np.maximum(convolve(feature * mask, weights["generate.0.weight"], weights["generate.0.bias"]), 0)
    feature = convolve(feature, weights["generate.2.weight"], weights["generate.2.bias"])
    squares = ((feature - teacher.numpy()) ** 2).sum()
    assert value == pytest.approx(squares / 2, rel=1e-9)
    loss.reduction = "relative"
    torch.manual_seed(3)
    assert float(loss(*of_maps(student, teacher))) == pytest.approx(squares / (teacher**2).sum().item(), rel=1e-9)


def copying(channels: int, mask_ratio: float) -> MGDLoss:
    """The loss with a generator that copies its input."""
    loss = mgd(channels, channels, mask_ratio=mask_ratio)
    for k in (0, 2):
        torch.nn.init.dirac_(loss.blocks["stage1"]["generate"][k].weight)
        torch.nn.init.zeros_(loss.blocks["stage1"]["generate"][k].bias)
    return loss


def test_a_copying_generator_by_hand() -> None:
    student = torch.tensor([[[[1.0, -2.0]], [[3.0, 0.0]]]]).double()
    teacher = torch.tensor([[[[0.0, 1.0]], [[5.0, 0.0]]]]).double()
    # The ReLU takes the -2 away: (1 + 1 + 4 + 0) / (1 + 25).
    assert float(copying(2, 0.0)(*of_maps(student, teacher))) == pytest.approx(6 / 26)
    # The mask has its share and differs from step to step.
    loss, maps = copying(1, 0.65), of_maps(*[torch.ones(4, 1, 100, 100).double()] * 2)
    torch.manual_seed(0)
    values = [float(loss(*maps)) for _ in range(2)]
    assert values == pytest.approx([0.65, 0.65], abs=0.02)
    assert values[0] != values[1]
