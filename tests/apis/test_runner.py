"""How a run is set up for GPUs, whether or not there are any here."""

import os

import pytest
import torch
from mmengine.config import Config

from kd_mm.apis.run_options import enable_amp, set_up_launcher
from kd_mm.apis.runner import build_runner, read_config


def gpus(monkeypatch, count, capability=(8, 0)):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    # As in torch since 2.4: old GPUs emulate it.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: count > 0)


@pytest.mark.parametrize(
    ("count", "capability", "wrapper"),
    [
        (0, (0, 0), "kd_mm.Bf16OptimWrapper"),
        (1, (7, 5), "AmpOptimWrapper"),
        (1, (8, 0), "kd_mm.Bf16OptimWrapper"),
    ],
)
def test_gpus_that_only_emulate_bfloat16_train_in_float16(monkeypatch, count, capability, wrapper):
    gpus(monkeypatch, count, capability)
    config = Config({"optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}}})
    enable_amp(config)
    assert config.optim_wrapper.type == wrapper
    assert config.optim_wrapper.get("loss_scale") == ("dynamic" if wrapper == "AmpOptimWrapper" else None)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    gpus(monkeypatch, 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=r"4 processes were started, and 2 GPU\(s\) are visible.*--nproc_per_node 2"):
        set_up_launcher(Config(), "pytorch")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    config = Config()
    set_up_launcher(config, "pytorch")
    assert config.to_dict() == {"launcher": "pytorch"}  # the rest is the engine's own


@pytest.mark.parametrize("given", [None, ":16:8"])
def test_a_deterministic_run_lets_cublas_be_deterministic(monkeypatch, tmp_path, given):
    """Without this variable torch refuses every matrix product on a GPU in such a run."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given or "")
    if given is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    options = {"randomness": {"seed": 0, "deterministic": True}}
    config = read_config("kd_mm::quickstart/student_digits.py", options, str(tmp_path))
    config.experiment_name = f"deterministic{given}"
    try:
        build_runner(config)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == (given or ":4096:8")
