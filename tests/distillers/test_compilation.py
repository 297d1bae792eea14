"""Compiled teachers and objective against the same networks run eagerly."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor_config

from kd_mm.losses import Progress

from ..helpers.errors import assert_refused
from . import detectors
from .conftest import batch, build, gradients, recipe, total
from .test_reid import PEOPLE, network, recipe_of

EVERYTHING = {"teacher": True, "objective": True, "backend": "aot_eager", "fullgraph": True}


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def distil(task: str, name: str, compile_options: dict[str, Any] | None, **changes: Any) -> Any:
    if task == "classification":
        return build(recipe=recipe(name, **changes), compile=compile_options)
    teacher = {"config": {"model": network(width=16, depth=14)}, "random_weights": True}
    return build(student=network(), teacher=teacher, recipe=recipe_of(name), compile=compile_options)


def run(model: Any, size: int = 6) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A step of a model in float64: its losses and gradients."""
    data = model.data_preprocessor(batch(size, PEOPLE), True)
    losses = model.double()(data["inputs"].double(), data["data_samples"], mode="loss")
    model.zero_grad()
    total(losses).backward()
    return losses, gradients(model)


def graphs() -> int:
    """How many graphs were compiled."""
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(
    ("task", "name"),
    [
        *(pytest.param("classification", name) for name in ("mtkd_ssr", "reviewkd")),
        pytest.param("reid", "kd"),
        *(
            pytest.param("classification", name, marks=pytest.mark.families)
            for name in ("kd", "dkd", "dist", "fitnets")
        ),
        *(
            pytest.param("reid", name, marks=pytest.mark.families)
            for name in ("dkd", "dist", "mtkd_ssr", "reviewkd", "fitnets")
        ),
    ],
)
def test_compiled_whole_equals_eager_in_values_and_gradients(task: str, name: str) -> None:
    eager, compiled = distil(task, name, None), distil(task, name, EVERYTHING)
    for _ in range(2):
        (losses, grads), (found, found_grads) = run(eager), run(compiled)
        assert losses.keys() == found.keys()
        torch.testing.assert_close(found, losses, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found_grads, grads, rtol=1e-9, atol=1e-12)
    assert graphs() == 2
    assert eager.state_dict().keys() == compiled.state_dict().keys()
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict())


def test_a_batch_of_another_size_is_compiled_once_and_a_weight_that_changes_not_at_all() -> None:
    ramp = {"type": "kd_mm.LinearRamp", "fraction": 1.0}
    model = distil("classification", "kd", EVERYTHING, **{"losses.kd.schedule": ramp})
    found = []
    for i, size in enumerate((6, 6, 4, 6, 4)):
        model.progress = Progress(iteration=i, max_iterations=100)
        losses, _ = run(model, size)
        found.append(graphs())
        torch.testing.assert_close(losses["loss_kd"], losses["kd"] * 0.9 * (i + 1) / 100)
    assert found == [2, 2, 4, 4, 4]


def test_taps_fire_and_what_no_loss_reads_is_not_in_the_graph() -> None:
    model = distil("classification", "fitnets", {**EVERYTHING, "objective": False}, **{"losses.hint.stages": [1]})
    teacher, inputs = model.teachers["teacher"], torch.zeros(2, 3, 16, 16)
    teacher.observe(inputs)
    with torch.profiler.profile() as profile:
        observed = teacher.observe(inputs)
    convolutions = {event.key: event.count for event in profile.key_averages()}["aten::convolution"]
    modules = teacher.model.backbone.named_modules()
    read = [n for n, module in modules if isinstance(module, nn.Conv2d) and n.startswith(("stem", "layer1"))]
    assert convolutions == len(read) == 5
    assert set(observed.features) == {1}


@pytest.mark.parametrize("part", ["objective", pytest.param("teacher", marks=pytest.mark.families)])
@inductor_config.patch(compile_threads=1)
def test_inductor_gives_the_same_losses(part: str) -> None:
    eager, compiled = distil("classification", "kd", None), distil("classification", "kd", {part: True})
    if not (torch.cuda.is_available() or shutil.which("g++") or shutil.which("clang++")):
        assert_refused("needs a C\\+\\+ compiler", compiled.compilation.check_machine)
        return
    (losses, grads), (found, found_grads) = run(eager), run(compiled)
    torch.testing.assert_close(found, losses)
    torch.testing.assert_close(found_grads, grads)
    assert graphs() == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="what happens without a CUDA device")
def test_cuda_graphs_fall_back_with_a_line_that_says_why(warnings: list[str]) -> None:
    distil("classification", "kd", {"step": "cudagraph"})
    assert warnings == ["compile: step='cudagraph' compiles without CUDA graphs: torch finds no CUDA device"]


def test_a_detector_compiles_its_teachers_alone(warnings: list[str]) -> None:
    eager = detectors.build(detectors.retina(8), detectors.retina(12), detectors.MTKD)
    compiled = detectors.build(detectors.retina(8), detectors.retina(12), detectors.MTKD, compile=EVERYTHING)
    assert warnings == ["compile: objective=True is left out: a detector's boxes are lists of varying length"]
    losses, found = (detectors.losses_of(model.train()) for model in (eager, compiled))
    torch.testing.assert_close(found, losses)
    assert graphs() == 1


def test_options_that_do_not_fit_are_refused() -> None:
    for options, message in (
        ({"teachers": True}, "compile has no option 'teachers', did you mean 'teacher'"),
        ({"step": "graph"}, "compile: step='graph' is unknown; choose one of 'cudagraph'"),
        ({"step": "cudagraph", "backend": "aot_eager"}, "step='cudagraph' needs backend='inductor'"),
        (True, r"compile=True: give dict\(teacher=True, objective=True\)"),
    ):
        assert_refused(message, distil, "classification", "kd", options)
