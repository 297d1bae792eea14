"""A student exported with its exits: a plain classifier that tools/test.py runs, beside the clean student."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from kd_mm.apis.export_exits import export_exits
from kd_mm.models import combine_exits

from ..tools import Tools
from .test_export import CLASSES, DISTILLED, PLAIN, ROOT, Run, build

MSKD = DISTILLED.replace("mtkd_ssr", "mskd")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two steps of one-to-one MSKD."""
    folder = tmp_path_factory.mktemp("mskd")
    generator = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        for index in range(4):
            path = folder / "data" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(120 * label, 120 + 120 * label, (16, 16, 3), np.uint8)).save(path)
    plain, config, teacher = folder / "plain.py", folder / "distilled.py", folder / "teacher.pth"
    plain.write_text(PLAIN.replace("{data}", str(folder / "data")))
    torch.save({"state_dict": build(plain).state_dict()}, teacher)
    config.write_text(MSKD.format(plain=plain, root=ROOT, teacher=teacher))
    loaded = Config.fromfile(config)
    loaded.work_dir = str(folder / "run")
    loaded.model.recipe.teacher_exits.update(epochs=1, milestones=[])
    loaded.default_hooks.teacher_check.min_score = 0
    torch.manual_seed(0)
    runner = Runner.from_cfg(loaded)
    runner.train()
    checkpoint = folder / "run" / "epoch_1.pth"
    stored = torch.load(checkpoint, weights_only=False)
    runner.model.load_state_dict(stored["state_dict"])
    teacher.unlink()  # an export needs no teacher's weights
    return Run(plain, config, checkpoint, stored, runner.model.eval())


@pytest.fixture(scope="module")
def exported(tools: Tools, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    done = tools.run("export_student", run.config, run.checkpoint, folder / "student.pth", "--exits")
    assert done.status == 0, done.err
    assert "student alone" in done.out
    assert "image left at exit 4" in done.out
    names = ["student.pth", "student.py", "student_exits.pth", "student_exits.py"]
    assert sorted(path.name for path in folder.iterdir()) == names
    return folder


def evaluated(tools: Tools, folder: Path, name: str, *options: str) -> dict[str, float]:
    tools.test(f"{name}.py", f"{name}.pth", "--work-dir", "work", "--out", "work/found.json", *options, cwd=folder)
    measures: dict[str, float] = json.loads((folder / "work" / "found.json").read_text())
    return measures


def test_the_last_heads_export_is_the_plain_student(run: Run, exported: Path) -> None:
    written = torch.load(exported / "student.pth", weights_only=True)["state_dict"]
    assert list(written) == list(build(run.plain).state_dict())
    assert "exits" not in (exported / "student.py").read_text()


def test_the_ensemble_answers_as_the_run_did(run: Run, exported: Path) -> None:
    model = build(exported / "student_exits.py").eval()
    model.load_state_dict(torch.load(exported / "student_exits.pth", weights_only=True)["state_dict"], strict=True)
    inputs = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    distiller = run.model
    with torch.no_grad(), distiller.recorder:
        answer = distiller.student(inputs, mode="tensor")
    with torch.no_grad():
        taken = distiller.recorder.take()
        exits = [distiller.distill["exits"][str(i)](distiller._map(taken, i)) for i in (1, 2, 3)]
        assert all(torch.equal(a, b) for a, b in zip(model.answers(inputs), [*exits, answer], strict=True))
        assert torch.equal(model(inputs), combine_exits([*exits, answer]))


def test_the_written_config_is_plain_and_the_tools_report_both(tools: Tools, exported: Path) -> None:
    text = (exported / "student_exits.py").read_text()
    assert all(word not in text for word in ("Distiller", "recipe", "teacher", "Hook('kd_mm"))
    alone, whole = evaluated(tools, exported, "student"), evaluated(tools, exported, "student_exits")
    assert whole["exits/top1_4"] == pytest.approx(alone["accuracy/top1"])
    assert {"accuracy/top1", "exits/top1_1", "exits/top1_2", "exits/top1_3"} <= set(whole)
    early = evaluated(tools, exported, "student_exits", "--cfg-options", "model.threshold=0.5")
    assert early["exits/share_1"] == 100.0  # of two classes, one has at least half of the probability
    config = Config.fromfile(exported / "student_exits.py")
    assert early["exits/multiply_adds"] == config.test_evaluator[-1].multiply_adds[0]


def test_costs_of_both(run: Run, tmp_path: Path) -> None:
    done = export_exits(str(run.config), str(run.checkpoint), tmp_path / "whole.pth")
    plain = sum(parameter.numel() for parameter in build(run.plain).parameters())
    exits = sum(parameter.numel() for parameter in run.model.distill["exits"].parameters())
    assert done.student[0] == plain
    assert done.whole[0] == plain + exits
    assert list(done.leaving) == sorted(done.leaving)
    assert done.leaving[-1] == done.whole[1] > done.student[1] > done.leaving[0]
    assert done.input_size == (16, 16)


def test_what_has_no_exits_is_one_line(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--exits: .*plain\.py is no distillation[^\n]*$"):
        export_exits(str(run.plain), str(run.checkpoint), tmp_path / "whole.pth")
    options = {"model.recipe.losses": {"_delete_": True, "kd": {"type": "kd_mm.KDLoss"}}}
    with pytest.raises(ValueError, match=r"trains no exits of the student[^\n]*$"):
        export_exits(str(run.config), str(run.checkpoint), tmp_path / "whole.pth", options)
    with pytest.raises(ValueError, match=r"give a \.pth file"):
        export_exits(str(run.config), str(run.checkpoint), tmp_path / "whole.py")
    assert list(tmp_path.iterdir()) == []
