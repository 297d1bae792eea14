"""The quickstart of detection as a user runs it, scaled down to one epoch, one seed and a few scenes."""

from __future__ import annotations

import csv
import json
from unittest import mock

import pytest
from PIL import Image

from kd_mm.apis.sweep import plan_jobs
from kd_mm.quickstart.detection import SCENES

ROWS = ["teacher", "student alone", "student, KD", "student, MTKD-SSR"]
METRICS = ["voc07/mAP", "voc12/mAP", "coco/mAP"]
FEW = {"train": 48, "val": 20, "test": 50}


@pytest.fixture(scope="module", autouse=True)
def few_scenes():
    with mock.patch.dict("kd_mm.quickstart.digit_scenes.COUNTS", FEW):
        yield


@pytest.fixture(scope="module")
def done(tools, few_scenes, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("quickstart")
    ended = tools.run("quickstart", "detection", "--epochs", 1, "--seeds", 0, "--work-dir", work_dir)
    assert ended.status == 0, ended.out[-2000:] + ended.err[-4000:]
    return work_dir, ended


def test_it_ends_with_a_table_of_four_rows(done):
    work_dir, ended = done
    table = (work_dir / "table.md").read_text()
    assert table in ended.out
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows[2:]] == ROWS
    assert [head.strip() for head in rows[0][2:5]] == ["VOC07 mAP (%)", "VOC12 mAP (%)", "COCO mAP (%)"]
    assert all(len(row) == len(rows[0]) and all(cell.strip() for cell in row) for row in rows)


def test_files_say_the_same_as_the_table(done):
    work_dir, _ = done
    cells = {cell["row"]: cell for cell in json.loads((work_dir / "results.json").read_text())}
    with open(work_dir / "table.csv") as file:
        rows = {row["network"]: row for row in csv.DictReader(file)}
    assert list(rows) == ROWS
    assert set(cells) == set(ROWS)
    for name, cell in cells.items():
        assert [float(rows[name][metric]) for metric in METRICS] == pytest.approx([cell[metric] for metric in METRICS])
    students = [cells[name] for name in ROWS[1:]]
    assert len({(cell["params"], cell["macs"]) for cell in students}) == 1
    assert round(cells["teacher"]["macs"] / students[0]["macs"], 1) == 2.8


def test_the_picture_is_a_picture(done):
    with Image.open(done[0] / "quickstart.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 100


def test_the_checkpoint_is_one_of_the_plain_student(tools, done):
    work_dir, _ = done
    run = work_dir / "runs" / "mtkd-ssr_teacher_student_scenes_seed0"
    out = work_dir / "again.json"
    plain = "kd_mm::quickstart/student_scenes.py"
    tools.test(plain, run / "epoch_1.pth", "--out", out, "--work-dir", work_dir / "t")
    cells = {cell["row"]: cell for cell in json.loads((work_dir / "results.json").read_text())}
    again = json.loads(out.read_text())
    assert [again[name] for name in METRICS] == pytest.approx([cells["student, MTKD-SSR"][name] for name in METRICS])


def test_the_plan_trains_the_teacher_once(tmp_path):
    jobs = {job.name: job for job in plan_jobs(SCENES.sweep([3, 4]), tmp_path)}
    assert [name for name in jobs if name.startswith("teacher")] == ["teacher_scenes_seed0"]
    assert {name for name, job in jobs.items() if job.needs} == {name for name in jobs if "teacher_student" in name}


def test_schedules_are_as_long_as_the_training():
    for row in SCENES.sweep(epochs=2).rows.values():
        warmup, cosine = row.config.param_scheduler
        assert (row.config.train_cfg.max_epochs, cosine.T_max, warmup.end) == (2, 2, 50)
    for row in SCENES.sweep().rows.values():
        assert row.config.param_scheduler[1].T_max == row.config.train_cfg.max_epochs > 2
