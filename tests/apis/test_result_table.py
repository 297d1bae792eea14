"""Pages of results: each is what its JSON file gives, and nobody has edited it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from mmengine import fileio
from PIL import Image

from kd_mm.apis.result_table import fingerprint_of, render_index, render_metafile, render_page, write_page
from kd_mm.apis.rows import read_sweep

from ..helpers.tools import ROOT, Tools

PAGES = sorted((ROOT / "docs" / "results").glob("*.json"))
RESULTS: dict[str, Any] = {
    "title": "Two rows",
    "text": ["Three seeds,", "last epoch."],
    "command": "kd-mm compare a.py",
    "metrics": ["accuracy/top1"],
    "baseline": "alone",
    "runs": [
        {"row": "alone", "seed": 0, "accuracy/top1": 60.0, "seconds": 90},
        {"row": "alone", "seed": 1, "accuracy/top1": 62.0, "seconds": 150},
        {"row": "kd", "seed": 0, "accuracy/top1": 64.0, "seconds": 180, "exit/student/1": 30.0, "exit/chance": 1.0}
        | {"exit/metric": "accuracy on the validation data"},
    ],
}


def is_of(page: Path, results: dict[str, Any]) -> bool:
    """Return whether page and picture are those of the results."""
    text = render_page({"best_on_test": False, "failed": [], **results}, page.stem)
    with Image.open(page.with_suffix(".png")) as picture:
        return page.read_text() == text and picture.info["Description"] == fingerprint_of(results)


def test_a_page_shows_gains_minutes_and_exits_beside_chance(cpu_tools: Tools, tmp_path: Path) -> None:
    file = tmp_path / "two.json"
    file.write_text(json.dumps(RESULTS))
    ended = cpu_tools.run("compare", "--page", file)
    assert (ended.status, ended.out) == (0, f"written: {tmp_path / 'two.md'}\n")
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (tmp_path / "two.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    assert [(line[0], line[2], line[3], line[-1]) for line in cells[:4] if "--" not in line[0]] == [
        ("config", "accuracy/top1, last epoch", "over alone", "minutes a run"),
        ("alone", "61.00 ± 1.41", "", "2.0"),
        ("kd", "64.00", "+3.00", "3.0"),
    ]
    assert cells[4::2] == [["config", "runs", "student, stage 1", "chance"], ["kd", "1", "30.0", "1.0"]]
    assert is_of(tmp_path / "two.md", RESULTS)


def test_a_page_that_was_edited_or_is_behind_its_results_is_found(tmp_path: Path) -> None:
    file = tmp_path / "two.json"
    file.write_text(json.dumps(RESULTS))
    page = write_page(file)
    better = {**RESULTS, "runs": [*RESULTS["runs"], {**RESULTS["runs"][-1], "seed": 1, "accuracy/top1": 70.0}]}
    assert not is_of(page, better)
    page.write_text(page.read_text().replace("64.00", "66.00"))
    assert not is_of(page, RESULTS)


def test_the_list_of_pages_and_the_metafile_are_those_of_the_results(tmp_path: Path) -> None:
    folder = ROOT / "docs" / "results"
    results = {file.stem: json.loads(file.read_text()) for file in PAGES}
    assert (folder / "README.md").read_text() == render_index(results)
    assert (folder / "metafile.yml").read_text() == render_metafile(results)
    (tmp_path / "metafile.yml").touch()
    teacher = {"row": "teacher_exits", "seed": 0, "accuracy/top1": 80.0, "seconds": 90, "params": 1000}
    two = {**RESULTS, "rows": {"kd": {"recipe": "kd", "config": "a.py"}}, "runs": [*RESULTS["runs"], teacher]}
    (tmp_path / "two.json").write_text(json.dumps(two))
    write_page(tmp_path / "two.json")
    # The teacher is no student: it has another number of parameters.
    assert "| [Two rows](two.md) | 3 | 4 | kd | accuracy/top1 64.00 |" in (tmp_path / "README.md").read_text()
    alone, distilled, _ = fileio.load(tmp_path / "metafile.yml")["Models"]
    assert (alone["In Collection"], distilled["In Collection"]) == ("plain training", "kd")
    assert distilled["Results"] == [{"Dataset": "Two rows", "Metrics": {"accuracy/top1": 64.0}}]


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.stem)
def test_each_page_of_the_docs_is_that_of_its_results(file: Path) -> None:
    """Where it fails: change the JSON file, then run kd-mm compare --page on it."""
    results = json.loads(file.read_text())
    assert is_of(file.with_suffix(".md"), results)
    sweep = (
        rf"kd-mm compare (configs/sweeps/\w+\.py)( --jobs 2)? --work-dir work_dirs/\w+ --page docs/results/{file.name}"
    )
    command = re.fullmatch(sweep, results["command"])
    assert command, "a command that anyone can give"
    assert {run["row"] for run in results["runs"]} <= set(read_sweep([str(ROOT / command[1])]).rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there are no results"),
        ("[1,", "is no JSON"),
        ("{}", "there is no 'metrics' in it"),
        ("[]", "no 'metrics'"),
    ],
)
def test_a_file_without_results_is_one_line(cpu_tools: Tools, tmp_path: Path, content: str, message: str) -> None:
    if content is not None:
        (tmp_path / "page.json").write_text(content)
    assert message in cpu_tools.refused("compare", "--page", tmp_path / "page.json")
    assert cpu_tools.run("compare").status == 2
