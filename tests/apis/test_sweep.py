"""Sweeps: columns of several metrics, shared preparations, a teacher trained in the sweep, and what is refused."""

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from kd_mm.apis.checks import require_metric
from kd_mm.apis.rows import Row, Sweep, read_sweep
from kd_mm.apis.runner import read_config
from kd_mm.apis.sweep import compare, plan_jobs, table_columns

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


def test_every_metric_has_a_column_at_the_last_and_at_the_best_epoch():
    columns = table_columns(["voc07/mAP", "coco/mAP"])
    assert [column.key for column in columns][:4] == ["voc07/mAP", "coco/mAP", "best/voc07/mAP", "best/coco/mAP"]
    assert all(column.spread for column in columns[:4])
    assert [column.key for column in columns][4:] == ["params", "macs", "seconds"]


def test_a_missing_metric_is_named_with_the_nearest():
    found = {"voc07/mAP": 71.5, "voc12/mAP": 72.0, "coco/mAP": 40.0}
    assert require_metric("voc12/mAP", found, "the test") == 72.0
    message = r"the test gives no metric 'voc7/mAP', did you mean 'voc07/mAP'\? \(there are: coco/mAP, voc07/mAP"
    with pytest.raises(ValueError, match=message):
        require_metric("voc7/mAP", found, "the test")


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
    with pytest.raises(ValueError, match=message):
        Sweep(**arguments)


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
