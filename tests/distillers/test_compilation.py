"""Compiled teachers and objective against the same networks run eagerly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from .conftest import batch, build, gradients, recipe, total
from .test_reid import PEOPLE, network, recipe_of

WHOLE = {"teacher": True, "objective": True, "backend": "aot_eager", "fullgraph": True}


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
    eager, compiled = distil(task, name, None), distil(task, name, WHOLE)
    for size in (6, 6):
        (losses, grads), (found, found_grads) = run(eager, size), run(compiled, size)
        assert losses.keys() == found.keys()
        torch.testing.assert_close(found, losses, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found_grads, grads, rtol=1e-9, atol=1e-12)
    assert counters["stats"]["unique_graphs"] == 2
    assert eager.state_dict().keys() == compiled.state_dict().keys()
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict())
