"""Random states on machines with a GPU: loaded onto it, and left alone by what is private."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kd_mm.hooks import ExactResumeHook
from kd_mm.hooks.exact_loader import follow
from kd_mm.hooks.random_state import capture_random_state, pack
from kd_mm.utils.random_state import isolated_rng
from tests.devices import DEVICES

HOME = os.getpid()


class OfThisProcess(Tensor):
    """Like a tensor on a GPU: a forked process cannot read it."""

    def cpu(self) -> Tensor:  # type: ignore[override]
        if os.getpid() != HOME:
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
        return self.as_subclass(Tensor)


class Noise(Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> float:
        return float(torch.rand(())) + float(np.random.rand()) + index


def loaded_onto(device: str, value: object) -> object:
    if isinstance(value, Tensor):
        return value.as_subclass(OfThisProcess) if device == "elsewhere" else value.to(device)
    if isinstance(value, dict):
        return {key: loaded_onto(device, item) for key, item in value.items()}
    return [loaded_onto(device, item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("device", [*DEVICES, "elsewhere"])
def test_forked_workers_go_on_from_states_that_were_loaded_onto_the_device(device: str) -> None:
    loader = DataLoader(Noise(), batch_size=1, num_workers=1, persistent_workers=True, multiprocessing_context="fork")
    place = follow(loader)
    passing = iter(loader)
    next(passing), next(passing)
    state = {"place": place.state_dict(loader), "random": pack(capture_random_state())}
    expected = [batch.tolist() for batch in passing]

    hook = ExactResumeHook()
    hook.after_load_checkpoint(None, {"exact_resume": loaded_onto(device, {"ranks": [state]})})
    (rank,) = hook._loaded["ranks"]
    again = DataLoader(Noise(), batch_size=1, num_workers=1, persistent_workers=True, multiprocessing_context="fork")
    follow(again).load_state_dict(again, rank["place"], rank["random"])
    assert [batch.tolist() for batch in again] == expected


def test_a_private_state_does_not_seed_a_gpu_that_is_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_private_state_leaves_the_devices_own_alone(device: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3, device=device)
    torch.manual_seed(5)
    with isolated_rng("part"):
        first = torch.rand(3, device=device)
    assert torch.equal(torch.rand(3, device=device), expected)
    with isolated_rng("part"):
        assert torch.equal(torch.rand(3, device=device), first)
