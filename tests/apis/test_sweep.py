"""Sweeps: columns of several metrics, shared preparations, a teacher trained in the sweep, and what is refused."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from kd_mm.apis.result_table import table_columns
from kd_mm.apis.rows import Row, Sweep, read_sweep
from kd_mm.apis.runner import read_config
from kd_mm.apis.sweep import compare, plan_jobs
from kd_mm.checks.metrics import require_metric
from kd_mm.utils.config import build_network

from ..helpers.errors import assert_refused
from ..helpers.tools import failed

TEACHER_ROW = """
student = "kd_mm::quickstart/student_digits.py"
seeds = [3, 4]
cfg_options = {"train_cfg.max_epochs": 1}
teacher = "kd_mm::quickstart/teacher_digits.py"
rows = [
    dict(config=teacher, seeds=[0], cfg_options={"train_cfg.max_epochs": 2}),
    dict(name="plain", config=student),
    dict(name="kd", config=student, distiller="kd", teacher_row="teacher_digits"),
]
"""


def test_every_metric_has_a_column_and_a_missing_one_is_named():
    columns = table_columns({"metrics": ["voc07/mAP", "coco/mAP"], "baseline": None, "best_on_test": False})
    assert [column.key for column in columns][:4] == ["voc07/mAP", "coco/mAP", "best/voc07/mAP", "best/coco/mAP"]
    assert all(column.spread for column in columns[:4])
    assert [column.key for column in columns][4:] == ["params", "macs", "seconds"]
    found = {"voc07/mAP": 71.5, "voc12/mAP": 72.0, "coco/mAP": 40.0}
    assert require_metric("voc12/mAP", found, "the test") == 72.0
    message = r"the test gives no metric 'voc7/mAP', did you mean 'voc07/mAP'\? \(there are: coco/mAP, voc07/mAP"
    assert_refused(message, require_metric, "voc7/mAP", found, "the test")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows": {}}, "one or more configs, each once"),
        ({"seeds": [1, 1]}, "one or more seeds, each once"),
        ({"metrics": []}, "one or more metrics, each once"),
    ],
)
def test_nothing_and_the_same_twice_are_refused(wrong, message):
    arguments = {"rows": {"a": Row(Config())}, "seeds": (0,), **wrong}
    assert_refused(message, Sweep, **arguments)


SMALL_TABLE = """
student = "kd_mm::quickstart/student_digits.py"
seeds = {seeds}
epochs = 1
cfg_options = {{
    "train_dataloader.dataset.indices": 64,
    "val_dataloader.dataset.indices": 40,
    "test_dataloader.dataset.indices": 40,
}}
random = {{"default_hooks.teacher_check.min_score": 0.0}}
rows = [
    dict(name="teacher", config="kd_mm::quickstart/teacher_digits.py", seeds=[0]),
    dict(name="student", config=student),
    dict(name="runs away", config=student, seeds=[0], cfg_options={{"optim_wrapper.optimizer.lr": 1e30}}),
    dict(config=student, distiller="mtkd_ssr", teacher_row="teacher", cfg_options=random),
    {more}
]
"""


def test_a_table_names_failed_rows_and_is_extended(cpu_tools, tmp_path):
    sweep, page = tmp_path / "sweep.py", tmp_path / "results" / "small.json"
    command = ["compare", sweep, "--jobs", 2, "--work-dir", tmp_path / "table", "--page", page]
    page.parent.mkdir()
    sweep.write_text(SMALL_TABLE.format(seeds=[0], more=""))
    ended = cpu_tools.run(*command)
    assert "runs-away_seed0: failed: iteration " in ended.out
    failed(ended, "error: runs-away_seed0 failed: iteration ", "loss is not finite (loss); training stops")
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("table/runs/*/result.json")}
    assert {path.parent.name for path in first} == {"teacher_seed0", "student_seed0", "mtkd_ssr_seed0"}
    results = json.loads(page.read_text())
    assert [(cell["row"], cell["seed"]) for cell in results["failed"]] == [("runs away", 0)]
    text = page.with_suffix(".md").read_text()
    assert "\nFailed: runs away, seed 0: iteration " in text
    assert "\n| runs away (failed) |    0 |" in text
    scores = {key: value for key, value in results["runs"][-1].items() if key.startswith("exit/")}
    assert scores["exit/metric"] == "accuracy on the validation data"
    exits = {f"exit/{network}/{stage}" for network in ("student", "teacher") for stage in (1, 2, 3)}
    assert scores.keys() == exits | {"exit/chance", "exit/metric"}
    assert 10 <= scores["exit/chance"] < 25  # the most frequent of ten classes among 40 images

    page.write_text(json.dumps({**results, "title": "Small digits", "findings": ["Nothing", "is learnt."]}))
    more = """dict(config=student, distiller="mtkd_ssr", teacher_row="teacher",
        cfg_options={**random, "model.recipe.losses.review.loss_weight": 0}),"""
    sweep.write_text(SMALL_TABLE.format(seeds=[0, 1], more=more).replace("1e30", "0.01"))
    assert cpu_tools.run(*command).status == 0
    refused = cpu_tools.refused(*command, "--cfg-options", "train_dataloader.batch_size=16")
    assert (
        "holds finished runs of other configs, weights or metrics under these names: teacher_seed0, student_seed0"
        in refused
    )
    assert {path: path.stat().st_mtime_ns for path in first} == first
    text = page.with_suffix(".md").read_text()
    assert "# Small digits\n" in text
    assert "Nothing\nis learnt.\n" in text
    assert "Failed" not in text
    heads = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    rows = ["teacher", "student", "runs away", "mtkd_ssr", "mtkd_ssr without review"]
    assert heads == ["config", "-" * len(rows[-1]), *rows, "config", "-" * len(rows[-1]), *rows[-2:]]


def test_every_row_is_checked_before_the_first_is_trained(cpu_tools, tmp_path):
    """The check of a row starts it as a run does, with a random teacher where the sweep has yet to train it."""
    wrong = """dict(config=student, distiller="pkd", teacher_row="teacher",
        cfg_options={**random, "model.recipe.losses.pkd.stages": [7]}),
    dict(name="no start", config=student, cfg_options={"load_from": "nowhere.pth"}),"""
    (tmp_path / "sweep.py").write_text(SMALL_TABLE.format(seeds=[0, 1], more=wrong))
    ended = cpu_tools.run("compare", tmp_path / "sweep.py", "--jobs", 2, "--work-dir", tmp_path / "table")
    failed(ended, "nothing was trained: row ", "row pkd: ", "row no start: checkpoint nowhere.pth does not exist")
    assert not (tmp_path / "table" / "runs").exists()
    line = cpu_tools.refused("compare", tmp_path / "sweep.py", "--work-dir", tmp_path / "sweep.py")
    assert "sweep.py is a file, not a folder" in line


def test_what_runs_prepare_on_a_teacher_is_in_one_folder(tmp_path):
    teacher = {"teacher": ["kd_mm::quickstart/teacher_digits.py"], "checkpoint": ["t.pth"]}
    sweep = read_sweep(["kd_mm::quickstart/student_digits.py"], ["mtkd_ssr", "mas"], **teacher, seeds=[0, 1])
    for job in plan_jobs(sweep, tmp_path):
        config, row, *_ = job.run.args
        caches = {hook["cache_dir"] for hook in config["default_hooks"].values() if "cache_dir" in hook}
        assert caches == (set() if row == "student_digits" else {str(tmp_path / "teachers")})


def test_a_teacher_is_trained_once_and_named_by_its_row(tmp_path):
    file = tmp_path / "sweep.py"
    file.write_text(TEACHER_ROW)
    sweep = read_sweep([str(file)])
    jobs = {job.name: job for job in plan_jobs(sweep, tmp_path)}
    assert list(jobs) == ["teacher_digits_seed0", "plain_seed3", "plain_seed4", "kd_seed3", "kd_seed4"]
    assert {job.needs for name, job in jobs.items() if name.startswith("kd")} == {("teacher_digits_seed0",)}
    home = tmp_path / "runs" / "teacher_digits_seed0"
    expected = {"config": str(home / "config.py"), "checkpoint": str(home / "epoch_2.pth")}
    assert jobs["kd_seed4"].run.args[0]["model"]["teacher"] == expected
    assert jobs["plain_seed3"].run.args[0]["train_cfg"]["max_epochs"] == 1
    # A result is kept in whichever folder it lies, and not after the teacher has changed.
    elsewhere = {job.name: job.fingerprint for job in plan_jobs(sweep, tmp_path / "elsewhere")}
    assert elsewhere == {name: job.fingerprint for name, job in jobs.items()}
    file.write_text(TEACHER_ROW.replace('max_epochs": 2', 'max_epochs": 3'))
    longer = {
        job.name for job in plan_jobs(read_sweep([str(file)]), tmp_path) if job.fingerprint != elsewhere[job.name]
    }
    assert longer == {"teacher_digits_seed0", "kd_seed3", "kd_seed4"}


def test_a_teacher_from_outside_counts_by_its_content(cpu_tools, tmp_path):
    """Finished runs are kept in a moved folder, and refused after the teacher was trained anew under its name."""
    home, moved = tmp_path / "home", tmp_path / "moved"
    home.mkdir()
    (home / "teacher.py").write_text('_base_ = "kd_mm::quickstart/teacher_digits.py"\n')
    weights = build_network(str(home / "teacher.py")).state_dict()
    torch.save(weights, home / "teacher.pth")
    words = ["student.py", "--distillers", "kd", "--seeds", 0, "--work-dir", "table", "--teacher", "teacher.py"]
    words += ["--teacher-checkpoint", "teacher.pth"]
    (home / "student.py").write_text(
        '_base_ = "kd_mm::quickstart/student_digits.py"\ntrain_cfg = dict(max_epochs=1)\n'
        "train_dataloader = dict(dataset=dict(indices=64))\n"
    )
    random = ["--cfg-options", "default_hooks.teacher_check.min_score=0"]
    assert cpu_tools.run("compare", *words, *random, cwd=home).status == 0
    home.rename(moved)
    ended = cpu_tools.run("compare", *words, *random, cwd=moved)
    assert ended.out.count("(kept)") == 2, ended.err
    assert "Failed to search registry" not in (moved / "table/runs/kd_seed0/console.log").read_text()
    config = moved / "teacher.py"
    config.write_text(config.read_text() + "model = dict(backbone=dict(norm_eval=True))\n")
    assert "under these names: kd_seed0;" in cpu_tools.refused("compare", *words, *random, cwd=moved)
    config.write_text('_base_ = "kd_mm::quickstart/teacher_digits.py"\n# the same\n')
    assert cpu_tools.run("compare", *words, *random, cwd=moved).status == 0
    torch.save({name: value + 1 for name, value in weights.items()}, moved / "teacher.pth")
    line = cpu_tools.refused("compare", *words, *random, cwd=moved)
    assert "holds finished runs of other configs, weights or metrics under these names: kd_seed0;" in line


def test_workers_of_a_machine_with_a_gpu_know_what_the_config_imports(tmp_path, monkeypatch):
    """There they start from nothing, as a process that has looked for CUDA must not be forked."""
    (tmp_path / "own_part.py").write_text(
        "from mmengine.hooks import Hook\nfrom mmengine.registry import HOOKS\n\n"
        "@HOOKS.register_module()\nclass OwnPart(Hook):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("PYTORCH_NVML_BASED_CUDA_CHECK", raising=False)
    MMLogger.get_current_instance()  # a new one would ask for the device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # here; the worker finds out for itself
    config = read_config("kd_mm::quickstart/student_digits.py", {"train_cfg.max_epochs": 1})
    config.custom_imports = {"imports": ["kd_mm", "own_part"], "allow_failed_imports": False}
    config.custom_hooks = [{"type": "OwnPart"}]
    table = compare(Sweep({"student": Row(config)}, seeds=(0,)), tmp_path / "compared")
    assert "| student |" in table
