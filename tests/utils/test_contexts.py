"""Random states: read and set, and left alone by what runs apart."""

import random

import numpy as np
import pytest
import torch

from kd_mm.utils.contexts import capture_random_state, isolated_rng, restore_random_state
from tests.devices import DEVICES


@pytest.mark.parametrize("device", DEVICES)
def test_a_restored_state_draws_the_same_numbers(device: str) -> None:
    def draw() -> list[float]:
        normal = [random.gauss(0, 1), float(np.random.standard_normal()), float(torch.randn((), device=device))]
        return [*normal, random.random(), float(np.random.rand()), float(torch.rand(()))]

    draw()  # both normal generators keep a second number now
    state = capture_random_state()
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    restore_random_state(state)
    assert draw() == expected


def test_an_isolated_block_does_not_seed_a_gpu_that_is_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA keeps the seeds it is given before it starts, and takes the last one."""
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with isolated_rng("part"):
        first = torch.rand(3)
    with isolated_rng("part"):
        assert torch.equal(torch.rand(3), first)
    assert seeds == []


@pytest.mark.parametrize("device", DEVICES)
def test_an_isolated_block_leaves_the_devices_states_alone(device: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3, device=device)
    torch.manual_seed(5)
    with isolated_rng("part"):
        first = torch.rand(3, device=device)
    assert torch.equal(torch.rand(3, device=device), expected)
    with isolated_rng("part"):
        assert torch.equal(torch.rand(3, device=device), first)
