"""The functions of kd_mm, on a small world of images."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

import kd_mm

from .helpers.tools import Tools, isolated
from .helpers.world import World


def test_train_distil_evaluate_and_export(tools: Tools, tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    one_epoch = {"train_cfg.max_epochs": 1, "default_hooks.logger.interval": 5}
    with isolated(tmp_path, tools.env):
        kd_mm.train(world.teacher, Path("teacher"), one_epoch)
        options = {**one_epoch, "default_hooks.teacher_check.min_score": 0.0}
        kd_mm.distill(str(world.plain), str(world.teacher), "teacher/epoch_1.pth", "kd", options=options)
        checkpoint = tmp_path / "work_dirs" / "kd_plain" / "epoch_1.pth"
        metrics = kd_mm.evaluate(str(world.plain), str(checkpoint), work_dir="tested")
        student = checkpoint.parent / "student.py"
        assert kd_mm.evaluate(str(student), str(student.with_suffix(".pth")), work_dir="tested") == metrics
        kd_mm.export(str(world.plain), str(checkpoint), "student.pth")
        with pytest.raises(ValueError, match="^onnx=True: give a file"):
            kd_mm.export(str(world.plain), str(checkpoint), "other.pth", onnx=True)
        with pytest.raises(ValueError, match="^recipe=.*joined by [+], such as"):
            kd_mm.distill(world.plain, world.teacher, "teacher/epoch_1.pth", ["kd", "at"])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="^options=.*: give a dict of dotted keys"):
            kd_mm.train(world.plain, options=["train_cfg.max_epochs=1"])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="not a Config$"):
            kd_mm.train(Config({}))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"^model\.recpie: Distiller has no option"):
            kd_mm.distill(
                str(world.plain), str(world.teacher), "teacher/epoch_1.pth", "kd", options={"model.recpie": 1}
            )
    assert 0 <= metrics["accuracy/top1"] <= 100
    stored = torch.load(tmp_path / "student.pth", weights_only=False)["state_dict"]
    assert not [key for key in stored if key.startswith("distill.")]
