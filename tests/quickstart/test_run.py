"""The quickstarts as a user runs them, scaled down to one epoch, one seed and a few images."""

import csv
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from PIL import Image

from kd_mm.apis.sweep import plan_jobs
from kd_mm.quickstart.classification import DIGITS
from kd_mm.quickstart.detection import SCENES
from kd_mm.quickstart.reid import PEOPLE
from kd_mm.quickstart.run import Quickstart

from ..helpers.tools import Ended, Tools


@dataclass(frozen=True)
class Case:
    """A quickstart and what its scaled-down run has to show."""

    quickstart: Quickstart
    heads: tuple[str, ...]
    teacher_cost: float
    few: tuple[Any, ...] = ()


CASES = {
    "classification": Case(DIGITS, ("test accuracy (%), last epoch", "at best validation epoch"), 20),
    "detection": Case(
        SCENES,
        ("VOC07 mAP (%)", "VOC12 mAP (%)", "COCO mAP (%)"),
        2.7,
        (mock.patch.dict("kd_mm.quickstart.digit_scenes.COUNTS", {"train": 16, "val": 6, "test": 16}),),
    ),
    "reid": Case(
        PEOPLE,
        ("mAP (%)", "mINP (%)", "Rank-1 (%)"),
        3,
        (
            mock.patch.dict("kd_mm.quickstart.people.IDENTITIES", {"val": 4, "test": 8}),
            mock.patch("kd_mm.quickstart.people.CAMERAS", 2),
        ),
    ),
}


@dataclass(frozen=True)
class Done:
    """A finished quickstart."""

    case: Case
    task: str
    work_dir: Path
    ended: Ended
    killed: Ended | None

    def cells(self) -> dict[str, dict[str, Any]]:
        return {cell["row"]: cell for cell in json.loads((self.work_dir / "results.json").read_text())}


def call(task: str, work_dir: Path) -> list[object]:
    return ["quickstart", task, "--epochs", 1, "--seeds", 0, "--work-dir", work_dir]


@pytest.fixture(scope="module", params=CASES)
def done(request: pytest.FixtureRequest, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    case, work_dir = CASES[request.param], tmp_path_factory.mktemp("quickstart")
    killed = None
    if request.param == "classification":
        killed = tools.run(*call(request.param, work_dir), kill={"iteration": 3})
        assert not results(work_dir)
    with ExitStack() as stack:
        for patch in case.few:
            stack.enter_context(patch)
        ended = tools.succeeds(*call(request.param, work_dir))
        yield Done(case, request.param, work_dir, ended, killed)


def results(work_dir: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in work_dir.glob("runs/*/result.json")}


def test_table_lines_and_files_agree(done: Done) -> None:
    table = (done.work_dir / "table.md").read_text()
    assert table in done.ended.out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == list(done.case.quickstart.configs)
    assert tuple(rows[0][2 : 2 + len(done.case.heads)]) == done.case.heads
    assert all(len(row) == len(rows[0]) and all(row) for row in rows)
    lines = [line for line in done.ended.out.splitlines() if line.startswith("[")]
    titles = sorted(line.split("]")[1].split(", seed")[0].strip() for line in lines)
    assert titles == sorted(done.case.quickstart.configs)
    assert "Epoch(train)" not in done.ended.out + done.ended.err
    for home in (done.work_dir / "runs").iterdir():
        assert "Epoch(train)" in (home / "console.log").read_text()
    cells = done.cells()
    with open(done.work_dir / "table.csv") as file:
        rows = {row["network"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(cells) == list(done.case.quickstart.configs)
    for name, cell in cells.items():
        assert int(rows[name]["runs"]) == 1
        for metric in done.case.quickstart.metrics:
            assert float(rows[name][metric]) == pytest.approx(cell[metric])
            assert f"{cell[metric]:.2f}" in next(line for line in table.splitlines() if line.startswith(f"| {name} "))
    teacher, *students = cells.values()
    assert len({(cell["params"], cell["macs"]) for cell in students}) == 1
    assert teacher["macs"] > done.case.teacher_cost * students[0]["macs"]


def test_exits_of_student_and_teacher_are_scored_beside_chance(done: Done) -> None:
    """By class or cell; by identity on training images, as the validation data have other identities."""
    cell = done.cells()["student, MTKD-SSR"]
    networks = {key.split("/")[1] for key in cell if key.startswith("exit/") and key.count("/") == 2}
    assert networks == {"student", "teacher"}
    assert all(0 <= cell[key] <= 100 for key in cell if key.startswith("exit/") and key != "exit/metric")
    split = "training" if done.task == "reid" else "validation"
    assert cell["exit/metric"].endswith(f" on the {split} data")
    # The detectors' teacher is trained together with its exits, which are scored at the end of its own run.
    assert ("exit/student/1" in done.cells()["teacher"]) == (done.task == "detection")


def test_the_picture_is_a_picture(done: Done) -> None:
    with Image.open(done.work_dir / "quickstart.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000
        colors = {color for _, color in image.convert("RGB").getcolors(maxcolors=2**24)}
    assert len(colors) > 100
    if done.task == "reid":  # frames of right and of wrong images
        assert {(0x00, 0x9E, 0x73), (0xD5, 0x5E, 0x00)} <= colors


def test_the_checkpoint_is_one_of_the_plain_student(tools: Tools, done: Done) -> None:
    configs, metrics = done.case.quickstart.configs, done.case.quickstart.metrics
    checkpoint = done.work_dir / "runs" / f"{configs['student, MTKD-SSR']}_seed0" / "epoch_1.pth"
    out = done.work_dir / "again.json"
    plain = f"kd_mm::quickstart/{configs['student alone']}.py"
    tools.test(plain, checkpoint, "--out", out, "--work-dir", done.work_dir / "test")
    again, cell = json.loads(out.read_text()), done.cells()["student, MTKD-SSR"]
    assert [again[name] for name in metrics] == pytest.approx([cell[name] for name in metrics])


@pytest.mark.parametrize("done", ["classification"], indirect=True)
def test_a_killed_call_goes_on_and_a_second_one_keeps_what_is_finished(tools: Tools, done: Done) -> None:
    assert done.killed is not None
    assert done.killed.status == 2
    assert "the same command goes on from here" in done.killed.err
    assert len(done.killed.err.strip().splitlines()) == 1
    before = results(done.work_dir)
    assert set(before) == {f"{config}_seed0" for config in DIGITS.configs.values()}
    # As a run leaves it that was killed while it trained.
    (done.work_dir / "runs" / "student_digits_seed0" / "result.json").unlink()
    repaired = tools.succeeds(*call("classification", done.work_dir))
    assert repaired.out.count("kept from before") == 3
    after = results(done.work_dir)
    assert {name for name in before if after[name] != before[name]} == {"student_digits_seed0"}
    scores = [json.loads(one["student_digits_seed0"])["result"]["accuracy/top1"] for one in (before, after)]
    assert scores[0] == scores[1]


def test_wrong_options_are_one_line(tools: Tools, tmp_path: Path) -> None:
    wrong_options = {"one or more seeds, each once": ["--seeds", 0, 0], "epochs and processes start": ["--epochs", 0]}
    for message, wrong in wrong_options.items():
        assert message in tools.refused("quickstart", *wrong, "--work-dir", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_sweep_trains_the_teacher_once_and_never_chooses_on_the_test_split(tmp_path: Path) -> None:
    for task in CASES:
        quickstart = CASES[task].quickstart
        jobs = plan_jobs(quickstart.sweep([3, 4]), tmp_path)
        teacher, *others = [job.name for job in jobs]
        assert teacher == f"{quickstart.configs['teacher']}_seed0"
        assert not any(name.startswith("teacher") for name in others)
        for job in jobs:
            config = job.run.args[0]
            assert job.needs == ((teacher,) if config["model"].get("teacher") else ())
            splits = [config[f"{part}_dataloader"]["dataset"]["split"] for part in ("train", "val", "test")]
            assert splits == ["train", "val", "test"]


def test_schedules_are_as_long_as_the_training() -> None:
    for task in CASES:
        quickstart = CASES[task].quickstart
        for epochs in (None, 2):
            for row in quickstart.sweep(epochs=epochs).rows.values():
                schedules = row.config.param_scheduler
                cosine = schedules[-1] if isinstance(schedules, list) else schedules
                assert cosine.T_max == row.config.train_cfg.max_epochs
                assert epochs is None or cosine.T_max == epochs
