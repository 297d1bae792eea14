"""The CIFAR-100 table of 240 epochs, two steps a row: columns, joint exits, and the table of what is finished."""

import csv
from pathlib import Path

import pytest

from kd_mm.apis.rows import read_sweep
from kd_mm.quickstart.smoke import shrink

from ..helpers.tools import Tools

TABLE = Path(__file__).parents[2] / "configs" / "sweeps" / "cifar100_240e.py"
#: Of its rows, these are run: a plain one, one of each kind of teacher, and the teachers.
ROWS = ["teacher", "student", "kd", "teacher_exits", "mtkd_ssr_joint_exits"]


def table_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "table.csv").open() as file:
        return {row["config"]: row for row in csv.DictReader(file)}


def test_the_table_is_made_by_one_command_and_of_what_is_finished(cpu_tools: Tools, tmp_path: Path) -> None:
    few = tmp_path / "few.py"
    few.write_text(TABLE.read_text() + f"rows = [row for row in rows if row['name'] in {ROWS}]\n")
    command = ["compare", few, "--smoke", "--seeds", 0, "--work-dir"]
    ended = cpu_tools.succeeds(*command, "table", "--devices", "cpu", "--jobs", 2, cwd=tmp_path)
    assert "accuracy/top1, last epoch | over student | accuracy/top1, best epoch on the test data" in ended.out
    table = table_of(tmp_path / "table")
    assert list(table) == ROWS
    assert all(row[key] for row in table.values() for key in ("accuracy/top1", "best/accuracy/top1", "macs"))
    assert {name: round(float(row["params"])) for name, row in table.items() if name in ("teacher_exits", "kd")} == {
        "teacher_exits": round(float(table["teacher"]["params"])),
        "kd": round(float(table["student"]["params"])),
    }
    joint = (tmp_path / "table" / "runs" / "mtkd_ssr_joint_exits_seed0" / "console.log").read_text()
    assert "exits of teacher 'teacher': loaded" in joint

    for name in set(ROWS) - {"kd", "teacher"}:
        (tmp_path / "table" / "runs" / f"{name}_seed0" / "result.json").unlink()
    cpu_tools.succeeds(*command, "table", "--merge", cwd=tmp_path)
    kept = table_of(tmp_path / "table")
    assert list(kept) == ["teacher", "kd"]
    assert all(kept[name][key] == table[name][key] for name in kept for key in ("accuracy/top1", "params", "macs"))
    ended = cpu_tools.run(*command, "nowhere", "--merge", cwd=tmp_path)
    assert (ended.status, "no run of this sweep is finished in nowhere/runs" in ended.err) == (2, True)


def test_every_row_of_the_table_is_composed() -> None:
    rows = read_sweep([str(TABLE)]).rows
    assert list(rows) == [*ROWS[:3], "dkd", "reviewkd", "wkd", "mtkd_ssr", *ROWS[3:]]


def test_a_device_that_is_not_there_is_refused(cpu_tools: Tools) -> None:
    line = cpu_tools.refused("compare", TABLE, "--smoke", "--devices", "cuda:x")
    assert line.startswith("error: device 'cuda:x': there are cpu")


def test_other_data_than_cifar100_are_not_generated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--smoke generates CIFAR-100 alone; train_dataloader of row student_digits"):
        shrink(read_sweep(["kd_mm::quickstart/student_digits.py"]), tmp_path)
