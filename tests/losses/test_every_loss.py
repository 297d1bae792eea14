"""What holds for every loss: true gradients, a constant teacher, finite values in half precision, refused options."""

import pytest
import torch
from torch.autograd import gradcheck

from kd_mm import losses as L
from kd_mm.losses import Loss
from kd_mm.registry import MODELS

from ..helpers.errors import assert_refused
from ..helpers.losses import CASES, Case, scd


def test_every_registered_loss_has_a_case() -> None:
    exported = set(filter(callable, vars(L).values()))
    registered = {kind for kind in exported if isinstance(kind, type) and MODELS.get(f"kd_mm.{kind.__name__}") is kind}
    kinds = {kind for kind in registered if issubclass(kind, Loss)}
    assert {type(case.build()) for case in CASES.values()} == kinds


@pytest.mark.parametrize("name", CASES)
def test_gradients_and_half_precision(name: str) -> None:
    check_gradients(CASES[name])
    check_extreme_values_in_half_precision(CASES[name])


def check_gradients(case: Case) -> None:
    """Compare with finite differences; student and parameters have a gradient, a constant teacher has none."""
    loss = case.build()
    student = tuple(tensor.clone().requires_grad_() for tensor in case.student)
    assert gradcheck(lambda *tensors: case.value(loss, tensors, case.teacher), student)
    teacher = [tensor.clone().requires_grad_() for tensor in case.teacher]
    case.value(loss, student, teacher).backward()
    assert any(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in student)
    assert all(parameter.grad is not None for parameter in loss.parameters() if parameter.requires_grad)
    assert not case.constant_teacher or all(tensor.grad is None for tensor in teacher)


def check_extreme_values_in_half_precision(case: Case) -> None:
    """The value is finite and float32, and so are the gradients, from zeros to the largest logits."""
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


def test_options_out_of_range_are_refused() -> None:
    for build, message in (
        (lambda: L.KDLoss(stage_reduction="none"), "stage_reduction='none' is unknown; choose one of 'sum', 'mean'"),
        (lambda: L.ATLoss(power=0), "power=0"),
        (lambda: L.CosineLoss(policy="never"), "policy='never' is unknown"),
        (lambda: L.CRDLoss(temperature=0), "temperature=0"),
        (lambda: L.CRDLoss(momentum=1.0), "momentum=1.0"),
        (lambda: L.CRDLoss(stages=[1, 2]), r"stages=\[1, 2\]; name one"),
        (lambda: L.CrossKDLoss(box="l1"), "box='l1' is unknown"),
        (lambda: L.CrossStageReviewLoss(direction="deep"), "deep_to_shallow"),
        (lambda: L.GPACAttentionLoss(selection="best"), "choose one of 'argmax'"),
        (lambda: L.GPACAttentionLoss(top=0), "top=0 must be 1 or more"),
        (lambda: L.LDLoss("kld"), "box='kld' is unknown; .* did you mean 'kl'"),
        (lambda: L.MAGLoss(code_dims=(64,)), r"code_dims=\[64\]"),
        (lambda: L.MASLoss(stable_weights=(1, 1, 1)), "must be three shares of 1"),
        (lambda: L.MASLoss(stable_space="mean"), "choose one of 'logit'"),
        (lambda: L.MGDLoss(mask_ratio=1.0), "mask_ratio=1.0 is no share of positions"),
        (lambda: L.MGDLoss(reduction="avg"), "reduction='avg' is unknown"),
        (lambda: L.MultiTeacherKDLoss("near"), "weights='near' is unknown; choose one of 'mean'"),
        (lambda: L.MultiTeacherKDLoss(kappa=0), "kappa=0 must be above 0"),
        (lambda: L.ReviewKDLoss(teacher_maps="relu"), "teacher_maps='relu'"),
        (lambda: scd(1, descriptor="gaussian", distance="l1"), "'gaussian' has distance='mse' alone, got 'l1'"),
        (lambda: L.StageResponseLoss(target="last"), "choose one of 'same_stage'"),
        (lambda: L.VIDLoss(initial_variance=0), "initial_variance=0"),
        (lambda: L.WKDLogitsLoss(relation="cosine"), "choose one of 'cka', 'classifier'"),
        (lambda: L.LinearRamp(), "one length"),
        (lambda: L.LinearRamp(epochs=1, iterations=2), "one length"),
        (lambda: L.LinearRamp(epochs=-1), "one length"),
        (lambda: L.CosineDecay(start=1), "CosineDecay: start=1"),
        (lambda: L.PiecewiseConstant(levels=(1.0, 0.5)), "one more than bounds"),
        (lambda: L.PiecewiseConstant(bounds=(0.6, 0.3)), "increase"),
        (lambda: L.PiecewiseConstant(bounds=(150, 180)), "set unit='epochs'"),
        (lambda: L.PiecewiseConstant(unit="steps"), "choose one of 'fraction', 'epochs'"),
    ):
        assert_refused(message, build)
