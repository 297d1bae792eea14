"""A student exported with its exits: a plain classifier that tools/test.py runs, beside the clean student."""

import json
from pathlib import Path

import pytest
import torch

from kd_mm.apis.export_exits import export_exits
from kd_mm.models import combine_exits
from kd_mm.tasks import Batch

from ..helpers.tools import Tools
from .test_export import Run, build, distil


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return distil(tmp_path_factory.mktemp("mskd"), "mskd")  # one-to-one MSKD


@pytest.fixture(scope="module")
def exported(tools: Tools, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    done = tools.succeeds("export_student", run.config, run.checkpoint, folder / "student.pth", "--exits")
    assert "student alone" in done.out
    assert "all exits" in done.out
    names = ["student.pth", "student.py", "student_exits.pth", "student_exits.py"]
    assert sorted(path.name for path in folder.iterdir()) == names
    return folder


def evaluated(tools: Tools, folder: Path, name: str, *options: str) -> dict[str, float]:
    tools.test(f"{name}.py", f"{name}.pth", "--work-dir", "work", "--out", "work/found.json", *options, cwd=folder)
    measures: dict[str, float] = json.loads((folder / "work" / "found.json").read_text())
    return measures


def test_ensemble_equals_the_exits_of_the_run(run: Run, exported: Path) -> None:
    model = build(exported / "student_exits.py").eval()
    model.load_state_dict(torch.load(exported / "student_exits.pth", weights_only=True)["state_dict"], strict=True)
    inputs = torch.randn(3, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    distiller = run.model
    with torch.no_grad(), distiller.recorder:
        logits = distiller.student(inputs, mode="tensor")
    with torch.no_grad():
        observed = distiller.objective.observe(Batch(distiller.recorder.take()))
        exits = [observed.stage_logits[i] for i in (1, 2)]
        assert all(torch.equal(a, b) for a, b in zip(model.exit_logits(inputs), [*exits, logits], strict=True))
        assert torch.equal(model(inputs), combine_exits([*exits, logits]))


def test_exported_config_is_plain_and_tools_evaluate_it(tools: Tools, exported: Path) -> None:
    text = (exported / "student_exits.py").read_text()
    assert all(word not in text for word in ("Distiller", "recipe", "teacher", "Hook('kd_mm"))
    alone, ensemble = evaluated(tools, exported, "student"), evaluated(tools, exported, "student_exits")
    assert set(ensemble) == set(alone)
    last = evaluated(tools, exported, "student_exits", "--cfg-options", "model.ensemble=last")
    assert last["accuracy/top1"] == pytest.approx(alone["accuracy/top1"])


def test_costs(run: Run, tmp_path: Path) -> None:
    done = export_exits(str(run.config), str(run.checkpoint), tmp_path / "exits.pth")
    exits = sum(parameter.numel() for parameter in run.model.objective.exits.parameters())
    student, ensemble = done.costs["student alone"], done.costs["all exits"]
    assert student[0] == sum(parameter.numel() for parameter in build(run.plain).parameters())
    assert ensemble[0] == student[0] + exits
    assert ensemble[1] > student[1]
    assert done.input_size == (20, 20)


def test_networks_without_exits_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--exits: .*small\.py is no distillation[^\n]*$"):
        export_exits(str(run.plain), str(run.checkpoint), tmp_path / "exits.pth")
    options = {"model.recipe.losses": {"_delete_": True, "kd": {"type": "kd_mm.KDLoss"}}}
    with pytest.raises(ValueError, match=r"trains no exits of the student[^\n]*$"):
        export_exits(str(run.config), str(run.checkpoint), tmp_path / "exits.pth", options)
    with pytest.raises(ValueError, match=r"give a \.pth file"):
        export_exits(str(run.config), str(run.checkpoint), tmp_path / "exits.py")
    assert list(tmp_path.iterdir()) == []
