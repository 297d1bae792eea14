"""What holds for every loss: true gradients, a constant teacher, finite values in half precision."""

import pytest
import torch
from torch.autograd import gradcheck

from kd_mm import losses
from kd_mm.losses import Loss
from kd_mm.registry import MODELS

from ..helpers.losses import CASES


def test_every_registered_loss_has_a_case() -> None:
    exported = {getattr(losses, name) for name in losses.__all__}
    registered = {kind for kind in exported if isinstance(kind, type) and MODELS.get(f"kd_mm.{kind.__name__}") is kind}
    kinds = {kind for kind in registered if issubclass(kind, Loss)}
    assert {type(case.build()) for case in CASES.values()} == kinds


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_true_and_reaches_student_and_parameters_but_no_constant_teacher(name: str) -> None:
    case = CASES[name]
    loss = case.build()
    student = tuple(tensor.clone().requires_grad_() for tensor in case.student)
    assert gradcheck(lambda *tensors: case.value(loss, tensors, case.teacher), student)
    teacher = [tensor.clone().requires_grad_() for tensor in case.teacher]
    case.value(loss, student, teacher).backward()
    assert any(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in student)
    assert all(parameter.grad is not None for parameter in loss.parameters() if parameter.requires_grad)
    assert not case.constant_teacher or all(tensor.grad is None for tensor in teacher)


@pytest.mark.parametrize("name", CASES)
def test_extreme_values_in_half_precision_stay_finite(name: str) -> None:
    case = CASES[name]
    sizes = [(torch.bfloat16, size) for size in (0.0, 1e-6, 1.0, 1e4, case.largest)]
    for dtype, size in [*sizes, (torch.float16, 1e3)]:
        loss = case.build().float()
        student = [(size * tensor).to(dtype).requires_grad_() for tensor in case.student]
        teacher = [(-size * tensor).to(dtype) for tensor in case.teacher]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = case.value(loss, student, teacher)
        value.backward()
        message = f"{dtype}, {size}"
        assert value.dtype == torch.float32, message
        assert torch.isfinite(value), message
        gradients = [tensor.grad for tensor in (*student, *loss.parameters()) if tensor.grad is not None]
        assert all(torch.isfinite(gradient).all() for gradient in gradients), message
