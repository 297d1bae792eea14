"""Comparisons: columns of several metrics, and clear words about what cannot be compared."""

import pytest
import torch
from mmengine.config import Config

from kd_mm.apis.compare import compare, plan, table_columns
from kd_mm.apis.metric_names import require
from kd_mm.apis.rows import read_rows
from kd_mm.apis.run import read_config


def test_every_metric_has_a_column_at_the_last_and_at_the_best_epoch():
    columns = table_columns(["voc07/mAP", "coco/mAP"])
    assert [column.key for column in columns][:4] == ["voc07/mAP", "coco/mAP", "best/voc07/mAP", "best/coco/mAP"]
    assert all(column.spread for column in columns[:4])
    assert [column.key for column in columns][4:] == ["params", "macs", "seconds"]


def test_a_metric_that_is_not_there_is_told_with_the_nearest():
    found = {"voc07/mAP": 71.5, "voc12/mAP": 72.0, "coco/mAP": 40.0}
    assert require("voc12/mAP", found, "the test") == 72.0
    message = r"the test gives no metric 'voc7/mAP', did you mean 'voc07/mAP'\? \(there are: coco/mAP, voc07/mAP"
    with pytest.raises(ValueError, match=message):
        require("voc7/mAP", found, "the test")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows": {}}, "one or more configs, each once"),
        ({"seeds": [1, 1]}, "one or more seeds, each once"),
        ({"metrics": []}, "one or more metrics, each once"),
    ],
)
def test_nothing_and_the_same_twice_are_refused(tmp_path, wrong, message):
    arguments = {"rows": {"a": Config()}, "seeds": [0], "metrics": ["accuracy/top1"], **wrong}
    with pytest.raises(ValueError, match=message):
        compare(work_dir=tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_what_several_rows_prepare_on_a_teacher_is_prepared_once(tmp_path):
    teacher = {"teacher": ["kd_mm::quickstart/teacher_digits.py"], "checkpoint": ["t.pth"]}
    recipes = ["kd", "mtkd_ssr", "mskd", "mag", "mas"]
    rows = read_rows(["kd_mm::quickstart/student_digits.py"], recipes, **teacher)
    jobs, row_of = plan(rows, tmp_path, [0, 1], ["accuracy/top1"])
    shares = {job.name: job.shares for job in jobs}
    assert shares["student_digits_seed1"] == shares["kd_seed1"] == shares["mtkd_ssr_seed0"] == shares["mag_seed0"] == ()
    # The exits of MSKD are those of MTKD-SSR, the codes of MAS those of MAG.
    assert shares["mtkd_ssr_seed1"] == shares["mskd_seed0"] == shares["mskd_seed1"] == ("mtkd_ssr_seed0",)
    assert shares["mag_seed1"] == shares["mas_seed0"] == shares["mas_seed1"] == ("mag_seed0",)
    assert row_of["mas_seed1"] == "mas"
    for job in jobs:
        hooks = job.work.args[0]["default_hooks"]
        caches = {hook["cache_dir"] for hook in hooks.values() if "cache_dir" in hook}
        assert caches == (set() if row_of[job.name] == "student_digits" else {str(tmp_path / "teachers")})


def test_workers_of_a_machine_with_a_gpu_know_what_the_config_imports(tmp_path, monkeypatch):
    """There they start from nothing, as a process that has looked for CUDA must not be forked."""
    (tmp_path / "own_part.py").write_text(
        "from mmengine.hooks import Hook\nfrom mmengine.registry import HOOKS\n\n"
        "@HOOKS.register_module()\nclass OwnPart(Hook):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("PYTORCH_NVML_BASED_CUDA_CHECK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # here; the worker finds out for itself
    config = read_config("kd_mm::quickstart/student_digits.py", {"train_cfg.max_epochs": 1})
    config.custom_imports = {"imports": ["kd_mm", "own_part"], "allow_failed_imports": False}
    config.custom_hooks = [{"type": "OwnPart"}]
    table = compare({"student": config}, tmp_path / "compared", seeds=[0])
    assert "| student |" in table
