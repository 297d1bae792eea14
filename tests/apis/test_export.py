"""The exported student: nothing of the run left in it, its numbers unchanged, and upstream's own tools run it."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmpretrain
import numpy as np
import onnxruntime
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from kd_mm.apis.export import export_student, exported_config
from kd_mm.registry import MODELS
from kd_mm.utils.checkpoint import read_checkpoint
from kd_mm.utils.onnx import to_onnx

from ..helpers.compare import same
from ..helpers.errors import assert_refused
from ..helpers.tools import Tools, environment
from ..helpers.world import World

UPSTREAM_TOOLS = Path(mmpretrain.__file__).parent / ".mim" / "tools"
PLAIN = """
_base_ = "plain.py"
model = dict(
    backbone=dict(_delete_=True, type="ResNet_CIFAR", depth=18, base_channels=4, stem_channels=4),
    head=dict(in_channels=32),
)
train_cfg = dict(max_epochs=1)
"""
CHANGES = """
custom_hooks = [dict(type="EMAHook")]
default_hooks = dict(teacher_check=dict(min_score=0))
"""


@dataclass(frozen=True)
class Run:
    """A distillation of two steps with an EMA hook."""

    plain: Path
    config: Path
    checkpoint: Path
    stored: dict[str, Any]
    model: nn.Module


def build(config: Config | Path) -> nn.Module:
    config = config if isinstance(config, Config) else Config.fromfile(config)
    return MODELS.build({"_scope_": "mmpretrain", "data_preprocessor": config.data_preprocessor, **config.model})


def distil(folder: Path, recipe: str) -> Run:
    """Train for an epoch under a teacher of random weights."""
    world = World(folder)
    plain = world.write("small.py", PLAIN)
    torch.save({"state_dict": build(world.teacher).state_dict()}, world.checkpoint)
    config = world.distil("distilled.py", recipe, CHANGES, plain="small.py")
    loaded = Config.fromfile(config)
    loaded.work_dir = str(folder / "run")
    loaded.model.recipe.teacher_exits.update(epochs=1, milestones=[])
    torch.manual_seed(0)
    runner = Runner.from_cfg(loaded)
    runner.train()
    checkpoint = folder / "run" / "epoch_1.pth"
    stored = read_checkpoint(str(checkpoint))
    runner.model.load_state_dict(stored["state_dict"])
    world.checkpoint.unlink()  # an export needs no weights of the teacher
    return Run(plain, config, checkpoint, stored, runner.model.cpu().eval())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return distil(tmp_path_factory.mktemp("distilled"), "mtkd_ssr")


def outputs(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(inputs, mode="tensor")


@pytest.fixture(scope="module")
def exported(tools: Tools, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    done = tools.succeeds("export_student", run.config, run.checkpoint, folder / "student.pth", "--onnx")
    assert "agrees with torch" in done.out
    assert sorted(path.name for path in folder.iterdir()) == ["student.onnx", "student.pth", "student.py"]
    return folder


def test_the_export_is_the_plain_network_with_the_weights_of_the_run(run: Run, exported: Path) -> None:
    written = torch.load(exported / "student.pth", weights_only=True)
    assert set(written) == {"meta", "state_dict"}
    assert list(written["state_dict"]) == list(build(run.plain).state_dict())
    assert tuple(written["meta"]["dataset_meta"]["classes"]) == ("blue", "green", "red")
    assert (written["meta"]["epoch"], written["meta"]["source"]) == (1, "epoch_1.pth")
    assert "kd_mm" not in (exported / "student.py").read_text()
    written, plain = Config.fromfile(exported / "student.py"), Config.fromfile(run.plain)
    assert set(written) - set(plain) == {"custom_hooks"}  # the EMA hook was in the config, and stays
    for key in plain:
        assert written[key] == plain[key], key
    model = build(exported / "student.py")
    state = torch.load(exported / "student.pth", weights_only=True)["state_dict"]
    model.load_state_dict(state, strict=True)
    inputs = torch.randn(3, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(outputs(model, inputs), outputs(run.model, inputs))


def test_onnx_takes_any_batch(run: Run, exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported / "student.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        inputs = torch.randn(batch, 3, 20, 20)
        (given,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        np.testing.assert_allclose(given, outputs(run.model, inputs).numpy(), atol=1e-4)


def test_upstreams_own_tools_train_and_test_without_kd_mm(run: Run, exported: Path, tmp_path: Path) -> None:
    """The export, and the checkpoint of the run as it is, by the plain config."""
    script = f"""
import runpy, sys
sys.modules["kd_mm"] = None  # an import of it fails from here on
sys.argv = ["train.py", {str(exported / "student.py")!r}, "--work-dir", "train", "--no-persistent-workers"]
runpy.run_path({str(UPSTREAM_TOOLS / "train.py")!r}, run_name="__main__")
sys.argv = ["test.py", sys.argv[1], {str(exported / "student.pth")!r}, "--work-dir", "test", "--out", "metrics.json",
            "--out-item", "metrics"]
runpy.run_path({str(UPSTREAM_TOOLS / "test.py")!r}, run_name="__main__")
sys.argv[1:3] = [{str(run.plain)!r}, {str(run.checkpoint)!r}]
sys.argv[-3] = "plain.json"
runpy.run_path({str(UPSTREAM_TOOLS / "test.py")!r}, run_name="__main__")
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "train" / "epoch_1.pth").is_file()
    metrics = (tmp_path / "metrics.json").read_text()
    assert "accuracy/top1" in metrics
    assert (tmp_path / "plain.json").read_text() == metrics
    assert "size mismatch" not in done.stdout
    assert "missing keys" not in done.stdout


def test_the_average_is_exported(run: Run, tmp_path: Path) -> None:
    done = export_student(str(run.config), str(run.checkpoint), tmp_path / "student.pth")
    written = torch.load(done.checkpoint, weights_only=True)
    averaged, raw = run.stored["state_dict"], run.stored["ema_state_dict"]
    assert done.weights == written["meta"]["weights"] == "stored"
    assert all(torch.equal(value, averaged[key]) for key, value in written["state_dict"].items())
    assert not torch.equal(averaged["head.fc.weight"], raw["module.head.fc.weight"])


def test_a_plain_config_is_exported_too(run: Run, exported: Path, tmp_path: Path) -> None:
    done = export_student(str(run.plain), str(exported / "student.pth"), tmp_path / "again.pth")
    first = torch.load(exported / "student.pth", weights_only=True)["state_dict"]
    second = torch.load(done.checkpoint, weights_only=True)["state_dict"]
    assert same(first, second)


def test_a_checkpoint_that_does_not_fit_is_one_line_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    state = {key: value for key, value in run.stored["state_dict"].items() if "layer4" not in key}
    torch.save({"state_dict": state}, tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=r"^student: .*cut\.pth does not fit its config: .*backbone\.layer4[^\n]*$"):
        export_student(str(run.config), str(tmp_path / "cut.pth"), tmp_path / "out" / "student.pth")
    assert not (tmp_path / "out").exists()


def test_nothing_that_is_read_is_replaced(run: Run, tmp_path: Path) -> None:
    checkpoint, config = tmp_path / "epoch_1.pth", tmp_path / "student.py"
    for file in (checkpoint, config):
        file.write_text("mine")
    for out in (checkpoint, config.with_suffix(".pth")):
        assert_refused("it would replace .* which is read", export_student, str(config), str(checkpoint), out)
    assert checkpoint.read_text() == config.read_text() == "mine"


def test_missing_onnx_packages_are_named_with_the_command(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r'onnxscript: pip install "kd-mm\[onnx\]"'):
        export_student(str(run.config), str(run.checkpoint), tmp_path / "student.pth", onnx=tmp_path / "student.onnx")
    assert list(tmp_path.iterdir()) == []


class FixedBatch(nn.Module):
    """Cannot be traced with a free batch size."""

    def forward(self, inputs: torch.Tensor, mode: str) -> torch.Tensor:
        return inputs.reshape(2, 48)


def test_a_network_that_fixes_its_batch_is_no_onnx_file() -> None:
    assert_refused("with a batch of 1|with a free batch size", to_onnx, FixedBatch(), (4, 4))


def test_parts_of_kd_mm_keep_the_import_and_other_imports_stay() -> None:
    student = {"type": "mmpretrain.ImageClassifier", "backbone": {"type": "kd_mm.CIFARResNet", "depth": 8}}
    distiller = {"type": "kd_mm.Distiller", "student": student}
    imports = {"imports": ["json", "kd_mm"], "allow_failed_imports": False}
    hooks = [{"type": "kd_mm.DistillHook"}, {"type": "EMAHook"}]
    wrapper = {"type": "kd_mm.Bf16OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1, "_scope_": "kd_mm"}}
    config = Config({"model": distiller, "custom_imports": imports, "custom_hooks": hooks, "optim_wrapper": wrapper})
    config.work_dir = "work_dirs/run"
    plain = exported_config(config)
    assert plain.model == student
    assert plain.custom_imports.imports == ["json", "kd_mm"]
    assert plain.custom_hooks == [{"type": "EMAHook"}]
    assert plain.optim_wrapper == {
        "type": "AmpOptimWrapper",
        "dtype": "bfloat16",
        "optimizer": {"type": "SGD", "lr": 0.1},
    }
    assert "work_dir" not in plain
    config.model.student.backbone.type = "ResNet"
    assert exported_config(config).custom_imports.imports == ["json"]
    config.custom_imports.imports = ["kd_mm"]
    assert "custom_imports" not in exported_config(config)
    config.default_scope = "mmpretrain"  # mmpretrain's inferencers look for LoadImageFromFile without its package
    config.test_dataloader = {
        "dataset": {"type": "CustomDataset", "pipeline": [{"type": "mmpretrain.LoadImageFromFile"}]}
    }
    assert exported_config(config).test_dataloader.dataset.pipeline == [{"type": "LoadImageFromFile"}]
    config.model.student.type = "mmdet.RetinaNet"
    assert exported_config(config).visualizer.type == "DetLocalVisualizer"  # by which mmdet's inferencer draws
