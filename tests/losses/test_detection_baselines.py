"""PKD, CWD and FGD against numbers of their public code, independent arithmetic, and extreme values.

The golden numbers come from MMRazor (PKD, CWD) and yzd-v/FGD, run on the same waves in float64.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.autograd import gradcheck

from kd_mm.losses.cwd import CWDLoss
from kd_mm.losses.fgd import FGDLoss, object_masks
from kd_mm.losses.observation import Observation
from kd_mm.losses.pkd import PKDLoss
from kd_mm.registry import MODELS

from ..helpers.waves import wave

RECIPES = Path(__file__).parents[2] / "configs" / "_base_" / "recipes" / "detection"


def observed(student: Tensor, teacher: Tensor, **more: object) -> tuple[Observation, Observation]:
    return Observation(features={1: student}, adapted={1: student}, **more), Observation(features={1: teacher})


STUDENT, TEACHER = wave(2, 3, 4, 5, pace=0.9, size=2.0), wave(2, 3, 4, 5, pace=1.7) + 0.5
FIXTURE_STUDENT = torch.arange(16, dtype=torch.float64).view(2, 2, 2, 2) / 10
FIXTURE_TEACHER = torch.tensor(
    [[[[1, 0], [2, 1]], [[0, 3], [1, 1]]], [[[2, 2], [0, 1]], [[1, 0], [0, 2]]]], dtype=torch.float64
)


# -- PKD -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "resize", "expected"),
    [
        (FIXTURE_STUDENT, FIXTURE_TEACHER, "student", 0.911831),
        (STUDENT, TEACHER, "student", 0.9659171240796629),
        (STUDENT, wave(2, 3, 6, 7, pace=1.3), "student", 0.9886680827226406),
        (STUDENT, wave(2, 3, 6, 7, pace=1.3), "teacher", 0.9758718067185602),
    ],
)
def test_pkd_agrees_with_public_code(student: Tensor, teacher: Tensor, resize: str, expected: float) -> None:
    value = PKDLoss(resize=resize)(*observed(student, teacher))
    assert float(value) == pytest.approx(expected, abs=1e-6)


def test_pkd_is_one_minus_the_correlation_of_each_channel() -> None:
    count = STUDENT.numel() // 3
    ours, theirs = (x.transpose(0, 1).reshape(3, -1).numpy() for x in (STUDENT, TEACHER))
    unlike = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(ours, theirs, strict=True)])
    value = PKDLoss()(*observed(STUDENT, TEACHER))
    assert float(value) == pytest.approx((count - 1) / count * unlike, abs=1e-5)
    scaled = PKDLoss()(*observed(STUDENT, 40 * TEACHER - 7))
    assert float(scaled) == pytest.approx(float(value), abs=1e-5)


def test_pkd_of_constant_channels_and_single_values_is_finite() -> None:
    for student in (torch.ones(2, 3, 4, 5), torch.ones(1, 3, 1, 1)):
        student.requires_grad_()
        value = PKDLoss()(*observed(student, torch.rand(student.shape)))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(student.grad).all()


# -- CWD -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "temperature", "expected"),
    [
        (FIXTURE_STUDENT, FIXTURE_TEACHER, 1.0, 0.345127),
        (FIXTURE_STUDENT, FIXTURE_TEACHER, 4.0, 0.398449),
        (STUDENT, TEACHER, 1.0, 1.0171063631432486),
        (STUDENT, TEACHER, 4.0, 1.2062807311967902),
    ],
)
def test_cwd_agrees_with_public_code(student: Tensor, teacher: Tensor, temperature: float, expected: float) -> None:
    value = CWDLoss(temperature=temperature)(*observed(student, teacher))
    assert float(value) == pytest.approx(expected, abs=1e-6)


def test_cwd_by_numpy() -> None:
    def share(x: Tensor) -> np.ndarray:
        e = np.exp(x.reshape(6, -1).numpy() / 2.0)
        return e / e.sum(axis=1, keepdims=True)

    p, q = share(TEACHER), share(STUDENT)
    expected = 4.0 * (p * np.log(p / q)).sum() / 6
    assert float(CWDLoss(temperature=2.0)(*observed(STUDENT, TEACHER))) == pytest.approx(expected, abs=1e-9)


def test_cwd_refuses_maps_of_different_sizes_and_bad_temperatures() -> None:
    with pytest.raises(ValueError, match=r"stage 1 has maps \(2, 3, 4, 5\) \(student\) and \(2, 3, 6, 7\) \(teacher\)"):
        CWDLoss()(*observed(STUDENT, wave(2, 3, 6, 7)))
    with pytest.raises(ValueError, match="temperature=0"):
        CWDLoss(temperature=0)


# -- FGD -----------------------------------------------------------------------------------------------------------


def fgd(student_channels: int, teacher_channels: int = 4, **options: float) -> FGDLoss:
    """The loss with waves for parameters."""
    loss = FGDLoss(**options)
    stages = (SimpleNamespace(channels=student_channels), SimpleNamespace(channels=teacher_channels))
    loss.setup(SimpleNamespace(pairs=[stages]))
    block = loss.double().blocks["stage1"]
    parts = [(block.student.mask, 1.2), (block.student.context, 1.3)]
    parts += [(block.align, 1.1), (block.teacher.mask, 1.4), (block.teacher.context, 1.5)]
    for module, pace in parts:
        for k, parameter in enumerate(module.parameters()):
            parameter.data.copy_(wave(*parameter.shape, pace=pace + 0.1 * k, size=0.5))
    return loss


def fgd_inputs(student_channels: int) -> tuple[Observation, Observation]:
    second = [[0.0, 0.0, 64.0, 48.0]] if student_channels == 4 else []
    boxes = [[[3.0, 2.0, 30.0, 20.0], [10.0, 10.0, 50.0, 47.9]], second]
    tensors = [torch.tensor(image, dtype=torch.float64).view(-1, 4) for image in boxes]
    targets = SimpleNamespace(boxes=tensors, shape=(48, 64))
    student = wave(2, student_channels, 6, 8, pace=0.9)
    return observed(student, wave(2, 4, 6, 8, pace=1.7, size=1.5), targets=targets)


GOLDEN_FGD = {
    4: {"alpha": 10.552272133451662, "beta": 3.963945518675553, "gamma": 29.34854131224498, "lambda_": 355.48631508375},
    3: {"alpha": 6.0447152125145145, "beta": 8.683153067500438, "gamma": 30.593621321966, "lambda_": 342.2991787744905},
}


@pytest.mark.parametrize("term", ["alpha", "beta", "gamma", "lambda_"])
@pytest.mark.parametrize("channels", [4, 3])
def test_fgd_agrees_with_public_code(channels: int, term: str) -> None:
    off = dict.fromkeys(("alpha", "beta", "gamma", "lambda_"), 0.0)
    loss = fgd(channels, **{**off, term: 1.0})
    assert float(loss(*fgd_inputs(channels))) == pytest.approx(GOLDEN_FGD[channels][term], rel=1e-6)


def test_fgd_default_weights() -> None:
    golden = GOLDEN_FGD[4]
    expected = 1e-3 * golden["alpha"] + 5e-4 * golden["beta"] + 1e-3 * golden["gamma"] + 5e-6 * golden["lambda_"]
    assert float(fgd(4)(*fgd_inputs(4))) == pytest.approx(expected, rel=1e-6)


def test_fgd_masks_by_hand() -> None:
    boxes = [torch.tensor([[10.0, 10.0, 30.0, 20.0], [0.0, 0.0, 64.0, 48.0]]), torch.zeros(0, 4)]
    boxes.append(torch.tensor([[40.0, 30.0, 64.0, 48.0]]))
    objects, background = object_masks(boxes, (48, 64), torch.zeros(3, 1, 6, 8))
    # Cells of 8 pixels: columns 1..4 and rows 1..3 for the small box; the whole image counts 9 x 7 cells.
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


def test_fgd_creates_its_parameters_for_the_stages_it_reads() -> None:
    loss = FGDLoss(stages=[2])
    pairs = [(SimpleNamespace(channels=c), SimpleNamespace(channels=d)) for c, d in [(4, 4), (5, 7), (6, 6)]]
    loss.setup(SimpleNamespace(pairs=pairs))
    assert set(loss.blocks) == {"stage2"}
    assert loss.blocks["stage2"].align.weight.shape == (7, 5, 1, 1)
    untouched = torch.randn(2, 7, 3, 3)
    torch.testing.assert_close(loss.blocks["stage2"].student(untouched), untouched, rtol=0, atol=0)


def test_fgd_refuses_maps_of_different_sizes() -> None:
    student, teacher = fgd_inputs(4)
    with pytest.raises(ValueError, match=r"stage 1 has maps of \(6, 8\) \(student\) and \(3, 4\) \(teacher\)"):
        fgd(4)(student, Observation(features={1: teacher.features[1][:, :, ::2, ::2]}))


def test_gradients_reach_the_student_and_own_parameters_alone() -> None:
    for loss in (PKDLoss(), CWDLoss(), fgd(4)):
        student, teacher = fgd_inputs(4)
        student.features[1].requires_grad_()
        teacher.features[1].requires_grad_()
        loss(student, teacher).backward()
        assert student.features[1].grad.abs().sum() > 0
        assert teacher.features[1].grad is None
        assert all(parameter.grad is not None for parameter in loss.parameters())


# -- all of them ---------------------------------------------------------------------------------------------------


def test_slopes_of_the_feature_losses() -> None:
    student, teacher = fgd_inputs(4)
    targets = student.targets
    for loss in (PKDLoss(), CWDLoss(temperature=2.0), fgd(4, temperature=2.0)):

        def value(x: Tensor, loss: nn.Module = loss) -> Tensor:
            return loss(*observed(x, teacher.features[1], targets=targets))

        assert gradcheck(value, (student.features[1].clone().requires_grad_(),))


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4, 1e12])
def test_extreme_values_in_bf16_stay_finite(size: float) -> None:
    for loss in (PKDLoss(), CWDLoss(), fgd(4).float()):
        student, teacher = fgd_inputs(4)
        ours = (size * student.features[1]).bfloat16().requires_grad_()
        theirs = (-size * teacher.features[1]).bfloat16()
        value = loss(*observed(ours, theirs, targets=student.targets))
        value.backward()
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert torch.isfinite(ours.grad).all()


@pytest.mark.parametrize("recipe", ["pkd", "cwd", "fgd"])
def test_recipes_build_their_losses(recipe: str) -> None:
    config = Config.fromfile(RECIPES / f"{recipe}.py")
    assert set(config) >= {recipe, "kd_hooks"}
    for loss in config[recipe].losses.values():
        assert MODELS.build(loss).loss_weight > 0
