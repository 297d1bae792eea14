"""The list of the pages of ``docs/results``, and a ``metafile.yml`` of their rows, as OpenMMLab lists models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine import fileio

from kd_mm.utils.atomic_files import replace_file
from kd_mm.utils.tables import Measure, group

_WRITTEN = "Written by kd-mm compare --page from the JSON files beside it."


def write_index(folder: Path) -> None:
    """Write ``README.md``, the list of the pages, and ``metafile.yml``, the rows by recipe.

    Args:
        folder: With the JSON files of the pages.
    """
    results = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    replace_file(folder / "README.md", render_index(results).encode())
    replace_file(folder / "metafile.yml", render_metafile(results).encode())


def render_index(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the list of pages by name: what they compare, and the best row of each."""
    lines = [f"<!-- {_WRITTEN} -->", "", "# Results", "", "| table | rows | runs | best row | its last epoch |"]
    lines.append("|---|--:|--:|---|--:|")
    for name, page in results.items():
        metric, rows = page["metrics"][0], group(page["runs"], "row")
        scores = {row: Measure.of([cell[metric] for cell in cells]) for row, cells in rows.items() if row != "teacher"}
        best = max(scores, key=lambda row: scores[row].mean)
        score = f"{metric} {scores[best].mean:.2f}"
        lines.append(
            f"| [{page.get('title') or name}]({name}.md) | {len(rows)} | {len(page['runs'])} | {best} | {score} |"
        )
    return "\n".join(lines) + "\n"


def render_metafile(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return OpenMMLab's ``metafile.yml`` of all rows: recipes are collections, rows are models, figures are means."""
    models = []
    for name, page in results.items():
        for row, cells in group(page["runs"], "row").items():
            about = page.get("rows", {}).get(row, {})
            metrics = {
                metric: round(Measure.of([cell[metric] for cell in cells]).mean, 2) for metric in page["metrics"]
            }
            models.append(
                {
                    "Name": f"{name}: {row}",
                    "In Collection": about.get("recipe") or "plain training",
                    "Config": about.get("config", ""),
                    "Metadata": {"Runs": len(cells), "Parameters": cells[0].get("params")},
                    "Results": [{"Dataset": page.get("title") or name, "Metrics": metrics}],
                }
            )
    collections = [{"Name": recipe} for recipe in sorted({model["In Collection"] for model in models})]
    listed = {"Collections": collections, "Models": models}
    return f"# {_WRITTEN}\n{fileio.dump(listed, file_format='yaml', sort_keys=False, allow_unicode=True)}"
