"""The sweep over upstream's families: a sample of it, resumed, and the pages of the docs that hold its results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .sweep_families import DOCS, main, render, with_table

#: A pyramid, tokens of one resolution, and a dense detector.
SAMPLE = {
    "classification": ("mobilenet_v3", "xcit"),
    "detection": ("retinanet",),
}


def test_families_distil_with_themselves_as_teacher(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copy(DOCS / "detectors.md", tmp_path)
    for task, names in SAMPLE.items():
        assert main(["--task", task, "--only", *names, "--docs", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "families.json").read_text())
    for task, names in SAMPLE.items():
        rows = results[task].values()
        assert [row["family"] for row in rows] == list(names)
        assert all(row["plain"] == "yes" for row in rows)
        assert all(row["recipes"] == {"mtkd_ssr": "yes", "kd": "yes", "pkd": "yes"} for row in rows)
    assert "| mtkd_ssr yes, kd yes, pkd yes | 1 | retinanet |" in (tmp_path / "detectors.md").read_text()
    capfd.readouterr()
    # A row of another fingerprint is run again, the others are not.
    results["classification"]["xcit/xcit-nano-12-p16_8xb128_in1k"]["fingerprint"] = "of older versions"
    (tmp_path / "families.json").write_text(json.dumps(results))
    assert main(["--task", "classification", "--only", *SAMPLE["classification"], "--docs", str(tmp_path)]) == 0
    rows = [line.split()[0] for line in capfd.readouterr().out.splitlines() if "=" in line]
    assert rows == ["xcit/xcit-nano-12-p16_8xb128_in1k"]


def test_pages_of_the_docs_are_those_of_the_results() -> None:
    results = json.loads((DOCS / "families.json").read_text())
    detectors = (DOCS / "detectors.md").read_text()
    assert detectors == with_table(detectors, results["detection"])
    assert (DOCS / "families.md").read_text() == render(results)


def test_every_recipe_ends_in_steps_or_in_a_line() -> None:
    results = json.loads((DOCS / "families.json").read_text())
    ends = {
        text.partition(":")[0] for rows in results.values() for row in rows.values() for text in row["recipes"].values()
    }
    assert ends <= {"yes", "refused"}
