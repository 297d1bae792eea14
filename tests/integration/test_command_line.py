"""The options of tools/train.py on a plain config, without writing a file."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import signal
import subprocess
import sys
import time
import weakref
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch._dynamo.utils import counters
from yapf.yapflib import yapf_api

from kd_mm.cli.main import main
from kd_mm.cli.options import run
from kd_mm.utils.config import load_config

from ..helpers.compare import differences, weights
from ..helpers.tools import Tools, environment
from ..helpers.world import ROOT, World, exits_in

QUICK = [
    "model.input_size=20",
    "model.recipe.teacher_exits.epochs=2",
    "model.recipe.teacher_exits.milestones=[0.5]",
    "model.recipe.losses.scd.loss_weight=1.0",
]


def steps(folder: Path) -> list[dict[str, Any]]:
    """The logged training steps of the only run in a folder."""
    (log,) = folder.glob("*/vis_data/scalars.json")
    return [row for row in map(json.loads, log.read_text().splitlines()) if "loss" in row]


def test_a_plain_config_with_mtkd_ssr(tools: Tools, world: World, tmp_path: Path) -> None:
    """The composed config is in the work dir and gives the same run by itself."""
    options = ["--distiller", "mtkd_ssr", *world.taught, "--cfg-options", *QUICK]
    tools.train(world.plain, "--work-dir", tmp_path / "composed", *options)
    composed = tmp_path / "composed" / "mtkd_ssr_plain.py"
    assert sorted((tmp_path / "composed").glob("*.py")) == [composed, tmp_path / "composed" / "student.py"]
    config = Config.fromfile(composed)
    assert config.model.type == "kd_mm.Distiller"
    assert config.model.recipe.teacher_exits.epochs == 2
    assert config.default_hooks.checkpoint.interval == 1
    # An empty folder is the current one of each run, so paths in the config do not depend on it.
    tools.train(composed, "--work-dir", tmp_path / "alone")
    trained = weights(tmp_path / "composed" / "epoch_2.pth")
    assert differences(trained, weights(tmp_path / "alone" / "epoch_2.pth")) == []
    assert {"distill.exits.1.fc.weight", "backbone.layer1.0.conv1.weight"} <= set(trained)
    assert {"loss_aux", "loss_scd", "loss_srd", "loss_review"} <= set(steps(tmp_path / "alone")[0])


def test_a_plain_config_with_hintons_distillation(tools: Tools, world: World, tmp_path: Path) -> None:
    """In mixed precision, without validation, with the learning rate scaled to the batch: one run for all of it."""
    options = ["--distiller", "kd", *world.taught, "--amp", "--auto-scale-lr", "--no-validate"]
    options += ["--cfg-options", "train_cfg.max_epochs=1", "model.student.backbone.depth=14"]
    ended = tools.train(world.plain, "--work-dir", tmp_path, *options)
    rows = steps(tmp_path)
    assert {"loss_student", "loss_kd"} <= set(rows[0])
    assert "aux" not in rows[0]
    # 0.05 for a batch of 6, and the batch is 12.
    assert rows[0]["lr"] == pytest.approx(0.1)
    assert "Epoch(val)" not in ended.out
    assert "accuracy/top1" not in ended.out
    trained = weights(tmp_path / "epoch_1.pth")
    assert not [key for key in trained if key.startswith("distill.")]
    assert "backbone.layer1.1.conv1.weight" in trained


def test_mixed_precision_changes_little(tools: Tools, world: World, tmp_path: Path) -> None:
    config = world.distil("precision.py", changes=exits_in(world.folder / "exits"))
    tools.train(config, "--work-dir", tmp_path / "full", "--cfg-options", "train_cfg.max_epochs=1")
    tools.train(config, "--work-dir", tmp_path / "mixed", "--amp", "--cfg-options", "train_cfg.max_epochs=1")
    full, mixed = steps(tmp_path / "full")[0], steps(tmp_path / "mixed")[0]
    for term in ("loss_student", "loss_aux", "loss_scd", "loss_srd", "loss_review"):
        assert mixed[term] != full[term]
        assert mixed[term] == pytest.approx(full[term], rel=0.05), term
    stored = weights(tmp_path / "mixed" / "epoch_1.pth").values()
    assert {str(value.dtype) for value in stored} == {"torch.float32", "torch.int64"}


def test_a_config_that_imports_its_base(tools: Tools, world: World, tmp_path: Path) -> None:
    """mmengine's configs in pure Python: with ``read_base()``, and types as classes."""
    load_config(str(world.plain)).dump(tmp_path / "base.py")
    config = tmp_path / "pure.py"
    bases = "with read_base():\n    from .base import *"
    changes = "model.update(type=ImageClassifier)\ntrain_cfg.update(max_epochs=1)\n"
    changes += "default_hooks.update(checkpoint=dict(type=CheckpointHook, interval=1))"
    imports = "from mmengine.config import read_base\nfrom mmpretrain.models import ImageClassifier\n"
    imports += "from mmengine.hooks import CheckpointHook"
    config.write_text(f"{imports}\n{bases}\n{changes}\n")
    assert "kd_mm.AtomicLocalBackend" in tools.train(config, "--work-dir", tmp_path / "plain").out
    tools.train(config, "--work-dir", tmp_path / "kd", "--distiller", "kd", *world.taught)
    for name in ("plain", "kd"):
        tools.succeeds("test", config, tmp_path / name / "epoch_1.pth", "--work-dir", tmp_path / "test")


def test_a_run_without_validation_data(tools: Tools, world: World, tmp_path: Path) -> None:
    """Nothing to score the teacher on: that is logged, and the exits are scored on what they learned from."""
    config = world.distil("unvalidated.py")
    ended = tools.train(config, "--work-dir", tmp_path, "--no-validate", "--cfg-options", "train_cfg.max_epochs=1")
    assert "the teachers' scores are not checked" in ended.out
    assert re.search(r"accuracy on the training data: stage 1: [\d.]+%", ended.out)


def test_a_hook_of_upstream_that_reads_the_size_of_a_batch(tools: Tools, world: World, tmp_path: Path) -> None:
    config = world.write(
        "precise.py",
        '_base_ = "plain.py"\ncustom_hooks = [dict(type="PreciseBNHook", num_samples=24)]\ndefault_hooks = None',
    )
    tools.train(config, "--work-dir", tmp_path, "--cfg-options", "train_cfg.max_epochs=1")


def test_a_run_that_is_resumed_without_a_checkpoint_starts(tools: Tools, world: World, tmp_path: Path) -> None:
    config = world.distil("fresh.py", recipe="kd")
    tools.train(config, "--work-dir", tmp_path / "a", "--resume", "auto")
    tools.train(config, "--work-dir", tmp_path / "b")
    assert differences(weights(tmp_path / "a" / "epoch_2.pth"), weights(tmp_path / "b" / "epoch_2.pth")) == []
    # From a path: one more epoch than before.
    before = tmp_path / "b" / "epoch_1.pth"
    ended = tools.train(config, "--work-dir", tmp_path / "c", "--resume", before)
    assert "resumed epoch: 1" in ended.out
    assert differences(weights(tmp_path / "c" / "epoch_2.pth"), weights(tmp_path / "b" / "epoch_2.pth")) == []


@pytest.mark.parametrize(
    ("iteration", "saved", "resume"), [(2, "no checkpoint is saved yet", ""), (7, "epoch_1.pth is saved", " --resume")]
)
def test_an_interrupted_run_names_what_is_stored(
    tools: Tools, world: World, tmp_path: Path, iteration: int, saved: str, resume: str
) -> None:
    stop = {"iteration": iteration, "signal": signal.SIGINT}
    ended = tools.run("train", world.plain, "--work-dir", tmp_path / "run", kill=stop)
    assert ended.status == 130
    first, second = ended.err.splitlines()
    assert first.startswith("interrupted: ")
    assert saved in first
    assert second == f"go on with: kd-mm train {world.plain} --work-dir {tmp_path}/run{resume}"


def test_what_an_earlier_run_saved_is_not_this_runs(tools: Tools, world: World, tmp_path: Path) -> None:
    command = [world.plain, "--work-dir", tmp_path, "--cfg-options", "train_cfg.max_epochs=1"]
    tools.train(*command)
    ended = tools.run("train", *command, kill={"iteration": 2, "signal": signal.SIGINT})
    assert f"{tmp_path} holds an earlier run, whose files of the same names this one replaces; --resume" in ended.out
    assert ended.err.splitlines() == [
        "interrupted: no checkpoint is saved yet",
        f"go on with: kd-mm train {shlex.join(map(str, command))}",
    ]


def test_a_killed_run_leaves_no_student_of_an_earlier_one(tools: Tools, world: World, tmp_path: Path) -> None:
    command = [world.distil("again.py", recipe="kd"), "--work-dir", tmp_path, "--cfg-options", "train_cfg.max_epochs=1"]
    tools.train(*command)
    student = tmp_path / "student.pth"
    before = weights(student)
    student.unlink()
    tools.train(*command, "--resume")  # which is finished
    assert differences(weights(student), before) == []
    ended = tools.run("train", *command, kill={"iteration": 2, "signal": signal.SIGINT})
    assert "student.pth of an earlier run is removed" in ended.out
    assert not student.exists()


def test_other_interrupted_tools_name_the_command(tools: Tools, world: World, tmp_path: Path) -> None:
    stop = {"call": "replace", "name": "out.", "signal": signal.SIGINT}
    for tool, arguments in {
        "export": [world.teacher, world.checkpoint, tmp_path / "out.pth"],
        "test": [world.teacher, world.checkpoint, "--out", tmp_path / "out.json"],
    }.items():
        ended = tools.run({"export": "export_student"}.get(tool, tool), *arguments, kill=stop)
        assert ended.status == 130
        assert ended.err.splitlines() == [
            "interrupted: no complete result is saved",
            f"go on with: kd-mm {tool} {shlex.join(map(str, arguments))}",
        ]


def test_an_interruption_before_anything_has_begun(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert main(["train", "a config.py"]) == 130
    assert capsys.readouterr().err.splitlines() == [
        "interrupted: nothing has begun",
        "go on with: kd-mm train 'a config.py'",
    ]


def test_an_interruption_in_a_callback(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Python ignores exceptions there."""

    def wait(args: Namespace) -> None:
        weakref.finalize(lambda: None, signal.raise_signal, signal.SIGINT).atexit = False
        time.sleep(30)

    words = partial(run, "train", "", wait, lambda parser: parser.add_argument("config"))
    monkeypatch.setattr(importlib, "import_module", lambda name: Namespace(main=words))
    assert main(["train", "x.py"]) == 130
    assert capsys.readouterr().err.splitlines()[0].startswith("interrupted: ")


def test_an_interruption_while_the_config_is_formatted(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """The engine makes a SyntaxError of it."""

    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(yapf_api, "FormatCode", interrupted)
    words, add = ["x.py"], lambda parser: parser.add_argument("config")
    assert run("train", "", lambda args: Config({"lr": 1}).pretty_text, add, words) == 130
    assert capsys.readouterr().err.splitlines() == ["interrupted: nothing has begun", "go on with: kd-mm train x.py"]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # as torchrun does
    monkeypatch.setattr(sys, "argv", ["tools/train.py"])
    assert run("train", "", lambda args: Config({"lr": 1}).pretty_text, add, words) == 130
    assert capsys.readouterr().err.endswith("go on with: torchrun --nproc_per_node 2 tools/train.py x.py\n")
    with pytest.raises(SyntaxError, match="by itself"):
        run("train", "", lambda args: (_ for _ in ()).throw(SyntaxError("by itself")), add, words)


def test_an_interruption_while_a_checkpoint_is_saved(
    tools: Tools, world: World, tmp_path: Path, monkeypatch: Any
) -> None:
    format_code = yapf_api.FormatCode

    def interrupted(*args: Any, **options: Any) -> Any:
        if (tmp_path / "run" / "last_checkpoint").is_file():
            raise KeyboardInterrupt
        return format_code(*args, **options)

    monkeypatch.setattr(yapf_api, "FormatCode", interrupted)
    ended = tools.run("train", world.plain, "--work-dir", tmp_path / "run")
    assert ended.status == 130
    saved, command = ended.err.splitlines()[-2:]
    assert saved == f"interrupted: {tmp_path / 'run' / 'epoch_1.pth'} is saved, what came after it is not"
    assert command.endswith(" --resume")


def test_one_of_several_interrupted_processes_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    def interrupted(args: Namespace) -> None:
        raise KeyboardInterrupt

    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert run("train", "", interrupted, lambda parser: parser.add_argument("config"), ["x.py"]) == 130
        assert bool(capsys.readouterr().err) == (rank == "0")


def test_an_interrupted_comparison_says_how_it_goes_on(tools: Tools, world: World, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "tools" / "compare.py"),
        str(world.plain),
        "--work-dir",
        str(tmp_path / "run"),
    ]
    command += ["--cfg-options", "train_cfg.max_epochs=9999"]
    process = subprocess.Popen(command, env=environment(**tools.env), stdout=-1, stderr=-1, text=True)
    while process.poll() is None and not list(tmp_path.glob("run/runs/*/config.py")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert error == (
        "interrupted: finished runs are kept, of the others the last checkpoint is saved\n"
        f"go on with: kd-mm compare {shlex.join(command[2:])}\n"
    )


def test_the_loss_of_the_readme(tools: Tools, tmp_path: Path) -> None:
    """Its blocks as they stand, with a teacher of one epoch."""
    section = (ROOT / "README.md").read_text().partition("## Add a loss")[2].partition("\n## ")[0]
    loss, config, commands = re.findall(r"```(?:python)?\n(.*?)```", section, re.DOTALL)
    (tmp_path / "my_losses.py").write_text(loss)
    (tmp_path / "my_config.py").write_text(config)
    teacher, student = [line.partition("#")[0].split() for line in commands.splitlines()]
    assert student[:3] == ["PYTHONPATH=.", "python", "tools/train.py"]
    few = ["train_cfg.max_epochs=1", "train_dataloader.dataset.samples_per_class=6"]
    tools.train(ROOT / teacher[2], "--work-dir", tmp_path / "teacher", "--cfg-options", *few)
    (tmp_path / "work_dirs" / "teacher_digits").mkdir(parents=True)
    (tmp_path / "teacher" / "epoch_1.pth").rename(tmp_path / "work_dirs" / "teacher_digits" / "epoch_60.pth")
    options = ["--cfg-options", *few, "default_hooks.teacher_check.min_score=0"]
    tools.train(*student[3:], *options, cwd=tmp_path, env={"PYTHONPATH": "."})
    (row,) = steps(tmp_path / "work_dirs" / "my_config")
    assert row["loss_cosine"] == pytest.approx(2 * row["cosine"], rel=1e-3)
    assert {"loss_student", "loss_kd", "cosine.stage1", "cosine.stage3"} <= set(row)


def test_teacher_objective_and_student_are_compiled_together(tools: Tools, world: World, tmp_path: Path) -> None:
    """--compile beside the engine's own option: the same losses as without, and the same names in the checkpoint."""
    options = ["--distiller", "kd", *world.taught, "--no-validate", "--cfg-options", "train_cfg.max_epochs=1"]
    options += ["model.input_size=20", "train_dataloader.batch_size=20"]
    engines = ["compile.backend=aot_eager", "model.compile.backend=aot_eager"]
    tools.train(world.plain, "--work-dir", tmp_path / "eager", *options)
    torch.compiler.reset()
    counters.clear()
    tools.train(world.plain, "--compile", "--work-dir", tmp_path / "compiled", *options, *engines)
    assert counters["stats"]["unique_graphs"] > 2  # the student's, beside those of teacher and objective
    torch.compiler.reset()
    rows = [steps(tmp_path / name)[-1] for name in ("eager", "compiled")]
    for name in ("loss", "loss_kd", "kd"):
        assert rows[1][name] == pytest.approx(rows[0][name], rel=1e-4)
    trained = [weights(tmp_path / name / "epoch_1.pth") for name in ("eager", "compiled")]
    assert list(trained[0]) == list(trained[1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU it is not asked for")
def test_compile_asks_for_a_compiler_before_the_first_step(tools: Tools, world: World, tmp_path: Path) -> None:
    command = [world.distil("compiled.py", recipe="kd"), "--work-dir", tmp_path / "run", "--compile"]
    line = tools.refused("train", *command, env={"PATH": str(tmp_path), "CXX": "none"})
    assert line.startswith("error: compile: backend='inductor' needs a C++ compiler on a CPU, and none was found")


def test_compile_is_for_a_distillation(tools: Tools, world: World, tmp_path: Path) -> None:
    line = tools.refused("train", world.plain, "--compile", "--work-dir", tmp_path)
    assert "a plain config takes --cfg-options compile=True" in line
