"""The benchmark of a training: what it runs, and that its numbers fit together; no time is judged."""

import json

import pytest

from kd_mm.apis.benchmark_training import benchmark_training, describe_training
from kd_mm.apis.recipes import config_root

from ..helpers.digits import digits_run
from ..helpers.tools import Tools

DIGITS = config_root() / "quickstart" / "student_digits.py"
SHORT = ["--rounds", 4, "--warmup", 1]


def test_both_loaders_and_both_loops_are_measured(tools: Tools) -> None:
    ended = tools.succeeds("benchmark", DIGITS, "--training", *SHORT, "--batch-size", 20, "--json", "-")
    result = json.loads(ended.out)
    assert list(result["loaders"]) == ["ordinary loader", "DeviceLoader"]
    for loader in result["loaders"].values():
        assert 0 < loader["low"] <= loader["images_per_second"] <= loader["high"]
        assert 0 < loader["loader_share"] < 1
    assert len(result["speedup"]) == result["rounds"] == 3
    engine = result["engine"]
    assert min(engine["mmengine"], engine["kd_mm"]) > 0
    assert engine["added"] == pytest.approx(engine["kd_mm"] - engine["mmengine"])
    assert (result["batch_size"], result["iterations"], result["warmup"]) == (20, 4, 1)
    text = describe_training(result)
    assert f"{engine['added']:+.3f}" in text
    assert "DeviceLoader over the ordinary loader" in text


def test_a_distillation_leaves_config_and_folder_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = digits_run(tmp_path / "run", "mtkd_ssr").cfg
    config.train_cfg.max_epochs = 2
    before, files = config._cfg_dict.to_dict(), sorted(tmp_path.rglob("*"))
    result = benchmark_training(config, iterations=2, warmup=1, rounds=1)
    assert result["engine"]["kd_mm"] > 0
    assert config._cfg_dict.to_dict() == before
    assert sorted(tmp_path.rglob("*")) == files


def test_wrong_input_is_one_line(tools: Tools) -> None:
    for options, problem in (
        (["--rounds", 0], "measure at least one"),
        (["--rounds", 50, "--cfg-options", "train_cfg.max_epochs=1"], "raise train_cfg.max_epochs"),
        (["--channels-last"], "--channels-last is of the benchmark of a step"),
        (["--device", "cuda"], "the engine trains on cpu; give --device cpu"),
        (["--cfg-options", "train_dataloader.dataset.type=kd_mm.Digts"], "kd_mm.Digits"),
    ):
        assert problem in tools.refused("benchmark", DIGITS, "--training", *options)
