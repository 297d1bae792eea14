"""The quickstart of re-identification as a user runs it, scaled down to one epoch, one seed and a few people."""

from __future__ import annotations

import csv
import json
from unittest import mock

import pytest
from PIL import Image

from kd_mm.quickstart.reid import PEOPLE

ROWS = ["teacher", "student alone", "student, KD", "student, RKD", "student, MTKD-SSR"]
METRICS = ["reid/mAP", "reid/mINP", "reid/Rank-1"]
FEW = {"val": 8, "test": 16}


@pytest.fixture(scope="module")
def done(tools, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("quickstart")
    call = ["quickstart", "reid", "--epochs", 1, "--seeds", 0, "--work-dir", work_dir]
    with mock.patch.dict("kd_mm.quickstart.people.IDENTITIES", FEW):
        ended = tools.run(*call)
    assert ended.status == 0, ended.out[-2000:] + ended.err[-4000:]
    return work_dir, ended


def test_it_ends_with_a_table_of_five_rows(done):
    work_dir, ended = done
    table = (work_dir / "table.md").read_text()
    assert table in ended.out
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows[2:]] == ROWS
    assert [head.strip() for head in rows[0][2:5]] == ["mAP (%)", "mINP (%)", "Rank-1 (%)"]
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
        assert 0 < cell["reid/mAP"] < 100
    students = [cells[name] for name in ROWS[1:]]
    assert len({(cell["params"], cell["macs"]) for cell in students}) == 1
    assert cells["teacher"]["macs"] > 3 * students[0]["macs"]


def test_the_picture_is_a_picture(done):
    with Image.open(done[0] / "quickstart.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000
        colors = {color for _, color in image.convert("RGB").getcolors(maxcolors=2**24)}
    assert {(0x00, 0x9E, 0x73), (0xD5, 0x5E, 0x00)} <= colors  # frames of right and of wrong images


def test_choices_never_look_at_the_test_gallery():
    for row in PEOPLE.sweep().rows.values():
        splits = [row.config[f"{part}_dataloader"].dataset.split for part in ("train", "val", "test")]
        assert splits == ["train", "val", "test"]
        assert row.config.param_scheduler[1].T_max == row.config.train_cfg.max_epochs > 2
