"""The contracts between a Distiller, its student, its teacher and the engine."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from torch import nn

from kd_mm.distillers.loss_monitor import LossMonitor
from kd_mm.engine import Bf16OptimWrapper
from kd_mm.hooks.report import distillation_report
from kd_mm.registry import MODELS
from kd_mm.utils.costs import count_operators
from tests.devices import DEVICES

from ..helpers.compare import same
from ..helpers.errors import assert_refused
from .conftest import CLASSES, batch, build, classifier, count_calls, losses_of, recipe

NO_LOSSES = {f"losses.{name}.loss_weight": 0 for name in ("aux", "scd", "srd", "review")}


def step(model: nn.Module, wrapper: OptimWrapper | None = None, seed: int = 0, **options: object) -> dict:
    wrapper = wrapper or OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    return model.train_step(batch(seed=seed, **options), wrapper)


# -- names in checkpoints ------------------------------------------------------------------------------------------


def test_checkpoints_hold_the_student_under_its_own_names_and_no_teacher() -> None:
    model = build()
    state = model.state_dict()
    plain = {key: value for key, value in state.items() if not key.startswith("distill.")}
    assert same({k: plain[k] for k in sorted(plain)}, dict(sorted(model.student.state_dict().items())))
    own = {key.split(".")[1] for key in state if key.startswith("distill.")}
    assert own == {"exits", "connectors"}
    model, other = build(), build(seed=1)
    step(model)
    assert other.load_state_dict(model.state_dict()) == ([], [])
    assert same(model.state_dict(), other.state_dict())


def test_plain_checkpoint_fills_the_student_or_stops() -> None:
    model, other = build(), build(seed=1)
    model.load_state_dict(other.student.state_dict(), strict=False)
    assert same(model.student.state_dict(), other.student.state_dict())
    broken = dict(other.student.state_dict())
    broken.pop("head.fc.weight")
    assert_refused(r"does not fill the student .*head\.fc\.weight", model.load_state_dict, broken, strict=False)
    broken["head.fc.weight"] = torch.zeros(3, 3)
    assert_refused("another shape", model.load_state_dict, broken, strict=False)


# -- parity with the plain run --------------------------------------------------------------------------------------


def test_nothing_is_built_for_zero_weights() -> None:
    model = build(recipe=recipe(**NO_LOSSES))
    assert not model.teachers
    assert not list(model.distill.parameters())
    only_scd = build(recipe=recipe(**{**NO_LOSSES, "losses.scd.loss_weight": 6.0}))
    assert {key.split(".")[0] for key in only_scd.objective.state_dict()} == {"connectors"}
    assert not len(only_scd.teachers["teacher"].exits)


def test_parts_and_random_states_do_not_depend_on_each_other() -> None:
    full, part = build(), build(recipe=recipe(**{"losses.scd.loss_weight": 0}), seed=9)
    assert same(full.objective.exits.state_dict(), part.objective.exits.state_dict())

    def states(config: dict) -> tuple:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        MODELS.build(config)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    full = {"type": "kd_mm.Distiller", "student": classifier(), "recipe": recipe(), "input_size": 16}
    full["teacher"] = {"config": classifier(14), "random_weights": True}
    assert states(full) == states(classifier())


# -- the teacher ----------------------------------------------------------------------------------------------------


def test_teacher_stands_outside_the_module_tree_and_stays_as_it_is() -> None:
    model = build()
    teacher = model.teachers["teacher"]
    inside = {id(module) for module in model.modules()}
    assert not any(id(module) in inside for module in teacher.model.modules())
    before = copy.deepcopy(teacher.model.state_dict()), copy.deepcopy(teacher.exits.state_dict())
    model.train()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    for i in range(3):
        step(model, wrapper, seed=i)
    assert same(before[0], teacher.model.state_dict())
    assert same(before[1], teacher.exits.state_dict())
    assert not teacher.model.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.model.parameters())
    assert all(p.grad is None for p in teacher.exits.parameters())


def test_teacher_is_stored_in_the_type_of_autocast_and_computes_the_same() -> None:
    model = build()
    teacher = model.teachers["teacher"]
    inputs = model.data_preprocessor(batch(), True)["inputs"]

    def observe() -> tuple[list[torch.Tensor], int]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            observed = teacher.observe(inputs)
            operators, _ = count_operators(lambda: teacher.observe(inputs))
            return [*observed.pooled.values(), *observed.stage_logits.values()], operators

    before, operators = observe()
    buffers = copy.deepcopy(dict(teacher.model.named_buffers()))
    wrapper = Bf16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    model.store_teachers(wrapper)
    after, fewer = observe()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    weights = [p for part in (teacher.model, teacher.exits) for p in part.parameters() if p.dtype == torch.bfloat16]
    assert fewer <= operators - len(weights)
    assert teacher.model.head.fc.weight.dtype == torch.bfloat16
    step(model, wrapper)
    assert same(dict(teacher.model.named_buffers()), buffers)
    assert {b.dtype for b in buffers.values()} == {torch.float32, torch.int64}
    model.val_step(batch())
    teacher.logits(inputs)  # outside of autocast, too


@pytest.mark.parametrize(("dtype", "computes"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_teacher_with_a_type_of_its_own_runs_in_it(dtype: str, computes: torch.dtype) -> None:
    teacher_config = {"config": classifier(14), "random_weights": True, "dtype": dtype}
    model = build(teacher=teacher_config)
    teacher, found = model.teachers["teacher"], []
    teacher.model.backbone.layer1.register_forward_hook(lambda _m, _a, out: found.append(out.dtype))
    for kind in (OptimWrapper, Bf16OptimWrapper):
        wrapper = kind(torch.optim.SGD(model.parameters(), lr=0.1))
        model.store_teachers(wrapper)
        step(model, wrapper)
    assert found == [computes] * 2
    assert teacher.model.head.fc.weight.dtype == computes
    assert model.student.head.fc.weight.dtype == torch.float32


def test_teacher_is_shared_by_copies_and_attributes_of_the_student_are_reached() -> None:
    model = build()
    model.double()
    teacher = model.teachers["teacher"]
    assert next(teacher.model.parameters()).dtype == torch.float64
    assert next(teacher.exits.parameters()).dtype == torch.float64
    twin = copy.deepcopy(model)
    assert twin.teachers["teacher"] is teacher
    assert twin.recorder is not model.recorder
    pickle.dumps(model.student)
    model = build()
    assert model.head is model.student.head
    assert model.with_neck
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = model.no_such_thing


@pytest.mark.parametrize("device", DEVICES)
def test_a_student_that_is_on_its_device_already_takes_its_teachers_there(device: str) -> None:
    init_default_scope("mmpretrain")
    student = MODELS.build(classifier()).to(device)
    model = build(student=student, teacher={"config": classifier(14), "random_weights": True}, recipe=recipe())
    assert {p.device.type for p in model.teachers["teacher"].model.parameters()} == {device}
    assert torch.isfinite(step(model.to(device))["loss"])


# -- one iteration --------------------------------------------------------------------------------------------------


def test_every_part_runs_once_a_step() -> None:
    losses = recipe()["losses"]
    losses["scd2"] = {**losses["scd"], "distance": "l1"}
    losses["srd2"] = {**losses["srd"], "temperature": 2.0}
    model = build(recipe={**recipe(), "losses": losses})
    teacher = model.teachers["teacher"]
    parts = {f"exit{i}": module for i, module in model.objective.exits.items()}
    parts |= {f"connector{i}": module for i, module in model.objective.connectors["teacher"].items()}
    parts |= {f"teacher exit{i}": module for i, module in teacher.exits.items()}
    parts |= {"student": model.student.backbone, "teacher": teacher.model.backbone, "teacher head": teacher.model.head}
    calls = count_calls(parts)
    step(model)
    assert set(calls.values()) == {1}, calls
    assert len(calls) == 2 + 3 + 2 + 3


def test_teacher_runs_no_deeper_than_needed_and_not_at_all_while_nothing_needs_it() -> None:
    shallow = build(recipe=recipe(**{**NO_LOSSES, "losses.scd.loss_weight": 1.0, "losses.scd.stages": [1, 2]}))
    backbone = shallow.teachers["teacher"].model.backbone
    calls = count_calls({name: getattr(backbone, name) for name in ("layer1", "layer2", "layer3")})
    step(shallow)
    assert calls == {"layer1": 1, "layer2": 1, "layer3": 0}

    ramp = {"type": "kd_mm.PiecewiseConstant", "levels": [0.0], "bounds": []}
    off = build(recipe=recipe("kd", **{"losses.kd.schedule": ramp}))
    calls = count_calls({"teacher": off.teachers["teacher"].model.backbone})
    step(off)
    assert calls == {"teacher": 0}


def test_exits_and_connectors_of_idle_terms_do_not_run_and_have_a_zero_gradient() -> None:
    off = {"type": "kd_mm.PiecewiseConstant", "levels": [0.0], "bounds": []}
    model = build(recipe=recipe(**{f"losses.{name}.schedule": off for name in ("aux", "srd", "review", "scd")}))
    losses = losses_of(model)
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.distill.parameters())
    off = {"type": "kd_mm.PiecewiseConstant", "levels": [0.0], "bounds": []}
    idle = {f"losses.{name}.schedule": off for name in ("scd", "srd", "review")}
    model = build(recipe=recipe(**idle, **{"losses.aux.stages": [2]}))
    exits, connectors = (dict(part.items()) for part in (model.objective.exits, model.objective.connectors["teacher"]))
    calls = count_calls({**exits, **{f"connector {i}": connector for i, connector in connectors.items()}})
    losses = losses_of(model)
    assert {name for name, count in calls.items() if count} == {"2"}
    model.parse_losses(losses)[0].backward()
    assert all(parameter.grad is not None for parameter in model.distill.parameters())


def test_a_step_or_a_prediction_leaves_nothing_and_untrained_exits_are_refused() -> None:
    model = build()
    step(model)
    model.val_step(batch())
    assert not model.recorder._records
    assert not model.teachers["teacher"].recorder._records
    with pytest.raises(RuntimeError, match="exits of teacher 'teacher' are not trained"):
        step(build(ready=False))


def test_gradients_reach_only_what_they_should() -> None:
    reach = {
        "aux": {"backbone", "exits"},
        "scd": {"backbone", "connectors"},
        "srd": {"backbone", "head", "exits"},
        "review": {"backbone", "exits"},
    }
    for name, expected in reach.items():
        weights = {**NO_LOSSES, f"losses.{name}.loss_weight": 1.0}
        model = build(recipe=recipe(**weights))
        losses = losses_of(model)
        losses[f"loss_{name}"].backward()
        reached = {
            key.split(".")[1]
            for key, parameter in model.named_parameters()
            if parameter.grad is not None and parameter.grad.any()
        }
        assert reached == expected, name


def test_identical_networks_differ_in_nothing_but_their_stages() -> None:
    config = recipe(**{"connectors.policy": "on_mismatch"})
    model = build(teacher={"config": classifier(), "random_weights": True}, recipe=config).eval()
    assert "yes" not in distillation_report(model)  # no connector has anything to do
    teacher = model.teachers["teacher"]
    teacher.model.load_state_dict(model.student.state_dict())
    teacher.exits.load_state_dict(model.objective.exits.state_dict())
    out = model(**model.data_preprocessor(batch(), False), mode="loss")
    assert float(out["scd"]) == pytest.approx(0.0, abs=1e-12)
    assert float(out["srd"]) == pytest.approx(0.0, abs=1e-6)
    assert float(out["review"]) > 0


def test_soft_labels_reach_the_exits_as_they_reach_the_student() -> None:
    student = classifier()
    student["head"]["loss"] = {"type": "mmpretrain.LabelSmoothLoss", "label_smooth_val": 0.1, "mode": "original"}
    student["train_cfg"] = {"augments": [{"type": "mmpretrain.Mixup", "alpha": 0.8}]}
    student["data_preprocessor"]["to_onehot"] = True
    student["head"]["cal_acc"] = False
    model = build(student=student)
    np.random.seed(0)
    torch.manual_seed(0)
    data = model.data_preprocessor(batch(), True)
    soft = torch.stack([sample.gt_score for sample in data["data_samples"]])
    assert ((soft > 0).sum(dim=1) > 1).any()
    logits: dict[str, torch.Tensor] = {}
    for i, module in model.objective.exits.items():
        module.register_forward_hook(lambda _m, _a, out, i=i: logits.update({i: out.detach()}))
    out = model(**data, mode="loss")
    smooth = soft * 0.9 + 0.1 / CLASSES
    expected = sum(-(smooth * z.log_softmax(1)).sum(1).mean() for z in logits.values())
    assert float(out["aux"]) == pytest.approx(float(expected), rel=1e-5)


def test_input_is_renormalised_for_the_teacher() -> None:
    options = {"mean": [10.0, 20.0, 30.0], "std": [40.0, 50.0, 60.0], "to_rgb": True}
    model = build(teacher={"config": classifier(14, **options), "random_weights": True})
    teacher = model.teachers["teacher"]
    own = model.data_preprocessor(batch(), False)["inputs"]
    expected = teacher.model.data_preprocessor(batch(), False)["inputs"]
    torch.testing.assert_close(teacher.preprocess(own), expected, rtol=1e-5, atol=1e-5)
    alike = build()
    assert torch.equal(alike.teachers["teacher"].preprocess(own), own)


def test_a_teacher_keeps_no_map_that_no_loss_reads() -> None:
    model = build()
    inputs = model.data_preprocessor(batch(), False)["inputs"].requires_grad_()
    observed = model.teachers["teacher"].observe(inputs)
    assert not observed.features
    assert not observed.taps
    assert {i: pooled.shape for i, pooled in observed.pooled.items()} == {1: (6, 16), 2: (6, 32), 3: (6, 64)}
    assert {i: logits.shape for i, logits in observed.stage_logits.items()} == dict.fromkeys((1, 2, 3), (6, CLASSES))
    assert torch.equal(observed.stage_logits[3], observed.logits)
    assert not any(t.requires_grad for t in (*observed.pooled.values(), *observed.stage_logits.values()))


def test_exits_and_connectors_run_under_autocast_and_losses_in_fp32() -> None:
    model = build()
    parts = {
        "exit": model.objective.exits["1"].fc,
        "connector": model.objective.connectors["teacher"]["1"].body[0],
        "teacher's exit": model.teachers["teacher"].exits["1"].fc,
    }
    dtypes: dict[str, torch.dtype] = {}
    for name, part in parts.items():
        part.register_forward_hook(lambda _m, _a, out, name=name: dtypes.update({name: out.dtype}))
    data = model.data_preprocessor(batch(), True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(**data, mode="loss")
    assert dtypes == dict.fromkeys(parts, torch.bfloat16)
    assert all(out[name].dtype == torch.float32 for name in ("aux", "scd", "srd", "review"))


# -- the engine -----------------------------------------------------------------------------------------------------


def test_terms_are_read_from_the_device_once_per_logging_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    model.monitor = LossMonitor()
    data = model.data_preprocessor(batch(), True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    reads = []
    for method in ("item", "tolist", "__float__", "__bool__"):
        original = getattr(torch.Tensor, method)
        monkeypatch.setattr(torch.Tensor, method, lambda self, original=original: (reads.append(1), original(self))[1])
    logged = []
    for i in range(6):
        model.monitor.iteration, model.monitor.report = i, i % 3 == 2
        loss, terms = model.parse_losses(model(**data, mode="loss"))
        logged.append(terms)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert len(reads) == 2
    assert [bool(terms) for terms in logged] == [False, False, True] * 2
    assert {"loss", "loss_student", "loss_scd", "scd", "scd.stage1", "review.stage2to1"} <= set(logged[2])
    assert all(isinstance(value, float) for value in logged[2].values())


def test_terms_are_logged_as_means_over_the_interval_and_named_where_not_finite() -> None:
    monitor = LossMonitor()
    for i, value in enumerate((1.0, 2.0, 6.0)):
        monitor.iteration, monitor.report = i, i == 2
        out = monitor.update({"loss": torch.tensor(value)})
    assert out == {"loss": 3.0}
    monitor = LossMonitor()
    monitor.report = False
    monitor.iteration = 41
    monitor.update({"loss": torch.tensor(1.0), "srd.stage1": torch.tensor(0.0), "srd.stage2": torch.tensor(1.0)})
    monitor.iteration = 42
    bad = torch.tensor(float("nan"))
    monitor.update({"loss": bad, "srd.stage1": torch.tensor(0.0), "srd.stage2": bad})
    with pytest.raises(RuntimeError, match=r"iteration 43: .*srd at stage2"):
        monitor.check()


def test_taps_survive_the_conversion_to_sync_bn() -> None:
    model = build(
        stages={
            "student": ["backbone.layer1", "backbone.layer2", "backbone.layer3.0.bn2"],
            "teacher": [f"backbone.layer{i}" for i in (1, 2, 3)],
        }
    )
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert converted.recorder.attach(converted.student) == ["backbone.layer3.0.bn2"]
    converted.eval()
    out = converted(**converted.data_preprocessor(batch(), False), mode="loss")
    assert "loss_scd" in out


def test_gradient_accumulation_equals_one_large_batch() -> None:
    def gradients(accumulate: int) -> dict:
        model = build().eval()
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=accumulate)
        wrapper.initialize_count_status(model, 0, accumulate)
        before = {k: v.detach().clone() for k, v in model.named_parameters()}
        full = batch(6)
        share = 6 // accumulate
        for i in range(accumulate):
            model.train_step({k: v[i * share : (i + 1) * share] for k, v in full.items()}, wrapper)
        return {k: before[k] - v.detach() for k, v in model.named_parameters()}

    once, twice = gradients(1), gradients(2)
    for key in once:
        torch.testing.assert_close(once[key], twice[key], rtol=1e-3, atol=1e-5)
