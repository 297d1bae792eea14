"""A transform of the teachers' logits in a recipe: what it serves, what it trains, what it leaves alone."""

from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper

from kd_mm.distillers.loss_monitor import LossMonitor
from kd_mm.hooks.report import distillation_report
from kd_mm.losses import LearningSimplifier, Progress
from kd_mm.losses.skd import CollapseError

from ..helpers.compare import same
from ..helpers.errors import assert_refused
from . import detectors
from .conftest import batch, build, classifier, gradients, losses_of, recipe, total

SKD = {"type": "kd_mm.LearningSimplifier", "temperature": 4.0}
LOGITS = {
    "kd": {"type": "kd_mm.KDLoss"},
    "dkd": {"type": "kd_mm.DKDLoss"},
    "dist": {"type": "kd_mm.DISTLoss", "temperature": 4.0},
    "srd": {"type": "kd_mm.StageResponseLoss"},
}


# -- it starts as the teacher, and is trained with the student ------------------------------------------------------


def test_the_first_step_is_that_of_plain_kd() -> None:
    simplified, plain = build(recipe=recipe("student_friendly")), build(recipe=recipe("kd"))
    ours, reference = losses_of(simplified), losses_of(plain)
    torch.testing.assert_close(ours["loss_kd"], reference["loss_kd"])
    assert float(ours["transform.agreement"]) == 100.0
    assert float(ours["transform.change"]) == pytest.approx(0.0, abs=1e-6)
    total(ours).backward()
    total(reference).backward()
    for name, gradient in gradients(plain.student).items():
        torch.testing.assert_close(gradients(simplified.student)[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", list(LOGITS))
def test_every_loss_on_logits_trains_the_simplifier_and_never_the_teacher(name: str) -> None:
    model = build(recipe={"losses": {name: LOGITS[name]}, "transform": {**SKD, "zero_init_out": False}})
    total(losses_of(model)).backward()
    transform = model.objective.transform["teacher"]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in transform.parameters())
    teacher = model.teachers["teacher"]
    assert all(p.grad is None for p in [*teacher.model.parameters(), *teacher.exits.parameters()])
    before = {key: value.clone() for key, value in teacher.model.state_dict().items()}
    model.train_step(batch(), OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    assert same(before, teacher.model.state_dict())


def test_options_reach_it() -> None:
    waiting = build(recipe=recipe("student_friendly", **{"transform.start_epoch": 2, "transform.zero_init_out": False}))
    plain = build(recipe=recipe("kd"))
    torch.testing.assert_close(losses_of(waiting)["kd"], losses_of(plain)["kd"])
    waiting.progress = Progress(epoch=2)
    assert float(losses_of(waiting)["kd"]) != pytest.approx(float(losses_of(plain)["kd"]), rel=1e-4)
    frozen = build(recipe=recipe("student_friendly", **{"transform.detach_target": True}))
    assert not any(p.requires_grad for p in frozen.distill.parameters())
    anchored = build(recipe=recipe("student_friendly", **{"transform.anchor": "ce", "transform.anchor_weight": 0.5}))
    out = losses_of(anchored)
    torch.testing.assert_close(out["loss_transform"].detach(), 0.5 * out["transform.anchor"])
    out["loss_transform"].backward()
    assert set(gradients(anchored)) == {
        "distill.transform.teacher.simplifiers.final.0.out.weight",
        *(f"distill.transform.teacher.simplifiers.final.0.{name}.weight" for name in "qkv"),
    }


# -- which losses and logits ---------------------------------------------------------------------------------------


def test_each_stage_has_a_simplifier_of_its_own_and_runs_once() -> None:
    full = recipe("mtkd_ssr")
    full["losses"] |= {"kd": LOGITS["kd"], "again": {**LOGITS["srd"], "temperature": 2.0}}
    model = build(recipe={**full, "transform": SKD})
    simplifiers = model.objective.transform["teacher"].simplifiers
    assert set(simplifiers) == {"final", "stage1", "stage2"}
    calls = dict.fromkeys(simplifiers, 0)
    for name, layers in simplifiers.items():
        layers[0].register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    out = losses_of(model)
    assert set(calls.values()) == {1}
    assert {"transform.agreement", "transform.agreement_stage1", "transform.agreement_stage2"} <= set(out)


def test_named_losses_alone_read_it() -> None:
    both = {"kd": LOGITS["kd"], "plain": LOGITS["kd"]}
    model = build(recipe={"losses": both, "transform": {**SKD, "losses": ["kd"], "zero_init_out": False}})
    out = losses_of(model)
    assert float(out["kd"]) != pytest.approx(float(out["plain"]), rel=1e-4)
    torch.testing.assert_close(out["plain"], losses_of(build(recipe={"losses": {"plain": LOGITS["kd"]}}))["plain"])
    some = {**recipe("mtkd_ssr")["losses"], "shallow": {**LOGITS["srd"], "stages": [1]}}
    model = build(recipe={**recipe("mtkd_ssr"), "losses": some, "transform": {**SKD, "losses": ["shallow"]}})
    assert set(model.objective.transform["teacher"].simplifiers) == {"stage1"}
    losses_of(model)


def test_several_teachers_have_one_each() -> None:
    teachers = {
        name: {"config": classifier(8, width=width), "random_weights": True} for name, width in (("a", 8), ("b", 16))
    }
    both = {name: {**LOGITS["kd"], "teacher": name} for name in teachers}
    model = build(teacher=teachers, recipe={"losses": both, "transform": {**SKD, "anchor": "kl"}})
    assert set(model.objective.transform) == {"a", "b"}
    out = losses_of(model)
    assert {"transform_a.agreement", "transform_b.agreement", "loss_transform_a", "loss_transform_b"} <= set(out)


# -- checkpoints, copies, the log -----------------------------------------------------------------------------------


def test_a_collapse_stops_the_run_where_asked_for_and_the_report_names_the_transform() -> None:
    model = build(recipe=recipe("student_friendly", **{"transform.guard": "stop", "transform.min_agreement": 101.0}))
    model.monitor = LossMonitor()
    model.monitor.report = False
    model.parse_losses(losses_of(model))
    model.monitor.report = True
    with pytest.raises(CollapseError, match="agreement is 100 %, below min_agreement=101"):
        model.parse_losses(losses_of(model))
    assert "LearningSimplifier" in distillation_report(build(recipe=recipe("student_friendly")))
    assert "LearningSimplifier" not in distillation_report(build(recipe=recipe("kd")))


# -- wrong recipes --------------------------------------------------------------------------------------------------


def test_wrong_recipes_are_refused() -> None:
    for wrong, message in (
        ({"losses": {"kd": LOGITS["kd"]}, "transform": {"temperature": 4.0}}, "has no type"),
        (
            {"losses": {"kd": LOGITS["kd"]}, "transform": {**SKD, "losses": ["kb"]}},
            "names the loss 'kb'",
        ),
        ({"losses": {"sp": {"type": "kd_mm.SPLoss"}}, "transform": SKD}, "none of the losses sp reads them"),
        ({"losses": {"transform": LOGITS["kd"]}}, "clashes with the log key 'loss_transform'"),
        ({"losses": {"transform_a": LOGITS["kd"]}}, "clashes with the log key 'loss_transform_a'"),
    ):
        assert_refused(message, build, recipe=wrong)


# -- detection ------------------------------------------------------------------------------------------------------


def detection(network: Any, base: dict, **options: Any) -> Any:
    model = detectors.build(network(8), network(12), {**base, "transform": {**SKD, "temperature": 1.0, **options}})
    return model.train()


@pytest.mark.parametrize("network", [detectors.faster, detectors.retina])
@pytest.mark.parametrize("base", [detectors.KD, detectors.MTKD], ids=["kd", "mtkd"])
def test_detectors_start_from_their_teachers_logits(network: Any, base: dict) -> None:
    model = detection(network, base)
    out = detectors.losses_of(model)
    plain = detectors.losses_of(detectors.build(network(8), network(12), base).train())
    for name in base["losses"]:
        torch.testing.assert_close(out[name], plain[name], rtol=1e-4, atol=1e-5)
    agreements = [value for key, value in out.items() if key.startswith("transform.agreement")]
    assert agreements
    assert all(float(value) == pytest.approx(100.0) for value in agreements)


def test_regions_of_an_image_look_at_each_other_alone() -> None:
    model = detection(detectors.faster, detectors.KD, zero_init_out=False)
    transform: LearningSimplifier = model.objective.transform["teacher"]
    recorded: dict[str, Any] = {}
    transform.register_forward_pre_hook(lambda _, args: recorded.update(rows=args[0], images=args[3]))
    detectors.losses_of(model)
    (images,), (logits,) = recorded["images"].values(), recorded["rows"].values()
    assert images.shape == (len(logits),)
    assert set(images.tolist()) == {0.0, 1.0}


def test_labels_of_images_are_no_anchor_in_detection() -> None:
    assert_refused("use anchor='kl'", detection, detectors.retina, detectors.KD, anchor="ce")
    out = detectors.losses_of(detection(detectors.retina, detectors.KD, anchor="kl", zero_init_out=False))
    assert torch.isfinite(out["loss_transform"])
