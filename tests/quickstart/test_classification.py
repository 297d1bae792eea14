"""The quickstart as a user runs it, scaled down to one epoch and one seed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

METRIC = "accuracy/top1"
ROWS = ["teacher", "student alone", "student, KD", "student, MTKD-SSR"]
RUNS = {
    "teacher_digits_seed0",
    "student_digits_seed0",
    "kd_teacher_student_digits_seed0",
    "mtkd-ssr_teacher_student_digits_seed0",
}


@pytest.fixture(scope="module")
def done(tools, tmp_path_factory):
    """A finished quickstart, begun in a call whose trainings were killed: its work dir and what it printed."""
    work_dir = tmp_path_factory.mktemp("quickstart")
    call = ["quickstart", "--epochs", 1, "--seeds", 0, "--work-dir", work_dir]
    killed = tools.run(*call, kill={"iteration": 3})
    assert killed.status == 2
    assert "the same command goes on from here" in killed.err
    assert len(killed.err.strip().splitlines()) == 1
    assert not results(work_dir)
    ended = tools.run(*call)
    assert ended.status == 0, ended.out[-2000:] + ended.err[-4000:]
    return work_dir, ended


def results(work_dir: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in work_dir.glob("runs/*/result.json")}


def test_it_ends_with_a_table_of_four_rows(done):
    work_dir, ended = done
    table = (work_dir / "table.md").read_text()
    assert table in ended.out
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows[2:]] == ROWS
    assert all(len(row) == len(rows[0]) and all(cell.strip() for cell in row) for row in rows)


def test_it_prints_a_line_for_each_run_and_keeps_the_rest_in_logs(done):
    work_dir, ended = done
    lines = [line for line in ended.out.splitlines() if line.startswith("[")]
    assert sorted(line.split("]")[1].split(", seed")[0].strip() for line in lines) == sorted(ROWS)
    assert "Epoch(train)" not in ended.out + ended.err
    assert "Epoch(train)" in (work_dir / "runs" / "student_digits_seed0" / "console.log").read_text()


def test_files_say_the_same_as_the_table(done):
    work_dir, _ = done
    cells = {cell["row"]: cell for cell in json.loads((work_dir / "results.json").read_text())}
    assert set(cells) == set(ROWS)
    with open(work_dir / "table.csv") as file:
        rows = {row["network"]: row for row in csv.DictReader(file)}
    assert list(rows) == ROWS
    table = (work_dir / "table.md").read_text()
    for name, cell in cells.items():
        assert float(rows[name][METRIC]) == pytest.approx(cell[METRIC])
        assert int(rows[name]["runs"]) == 1
        assert f"{cell[METRIC]:.2f}" in next(line for line in table.splitlines() if line.startswith(f"| {name} "))
    students = [cells[name] for name in ROWS[1:]]
    assert len({(cell["params"], cell["macs"]) for cell in students}) == 1
    assert cells["teacher"]["macs"] > 20 * students[0]["macs"]


def test_the_picture_is_a_picture(done):
    with Image.open(done[0] / "quickstart.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 100


def test_the_checkpoint_is_one_of_the_plain_student(tools, done):
    work_dir, _ = done
    run = work_dir / "runs" / "mtkd-ssr_teacher_student_digits_seed0"
    out = work_dir / "again.json"
    tools.test("kd_mm::quickstart/student_digits.py", run / "epoch_1.pth", "--out", out, "--work-dir", work_dir / "t")
    cells = {cell["row"]: cell for cell in json.loads((work_dir / "results.json").read_text())}
    assert json.loads(out.read_text())[METRIC] == pytest.approx(cells["student, MTKD-SSR"][METRIC])


def test_a_second_call_keeps_what_is_finished_and_repeats_what_is_not(tools, done):
    work_dir, first = done
    before = results(work_dir)
    assert set(before) == RUNS
    call = ["quickstart", "--epochs", 1, "--seeds", 0, "--work-dir", work_dir]
    again = tools.run(*call)
    assert again.status == 0
    assert again.out.count("kept from before") == 4
    assert results(work_dir) == before
    # As a run leaves it that was killed while it trained.
    (work_dir / "runs" / "student_digits_seed0" / "result.json").unlink()
    repaired = tools.run(*call)
    assert repaired.status == 0
    assert repaired.out.count("kept from before") == 3
    after = {name: json.loads(text)["result"] for name, text in results(work_dir).items()}
    kept = {name: json.loads(text)["result"] for name, text in before.items()}
    assert after["student_digits_seed0"][METRIC] == kept["student_digits_seed0"][METRIC]
    assert {name for name in RUNS if after[name] != kept[name]} <= {"student_digits_seed0"}


def test_wrong_options_are_one_line(tools, tmp_path):
    for wrong, message in (
        (["--seeds", 0, 0], "one or more seeds, each once"),
        (["--epochs", 0], "epochs and processes start"),
    ):
        ended = tools.run("quickstart", *wrong, "--work-dir", tmp_path)
        assert ended.status == 2
        assert message in ended.err
        assert len(ended.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
