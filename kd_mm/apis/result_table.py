"""What a sweep writes: the table as Markdown and CSV, results as JSON, a picture; pages of the docs and their list."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine import fileio

from kd_mm.apis.rows import Sweep
from kd_mm.utils.atomic_files import replace_file
from kd_mm.utils.figures import draw_comparison, to_png
from kd_mm.utils.tables import Cell, Column, Measure, comma_separated, group, markdown

Results = Mapping[str, Any]

COST_COLUMNS = (
    Column("params", "parameters", ".3f", 1e-6, " M"),
    Column("macs", "multiply-adds", ".1f", 1e-6, " M"),
    Column("seconds", "minutes a run", ".1f", 1 / 60),
)
#: What a page holds beside the results, in its JSON file: written by hand, a string or a list of lines, all optional.
PAGE_TEXTS = ("title", "text", "findings")
_WRITTEN = "Written by kd-mm compare --page from the JSON files beside it."


def write_results(
    sweep: Sweep, finished: Sequence[Cell], work_dir: Path, failed: Sequence[Cell] = (), picture: bool = False
) -> str:
    """Write ``table.md``, ``table.csv``, ``results.json`` and, where asked for, ``table.png``; return the first.

    Args:
        sweep: For the order of rows and the metrics.
        finished: Results of the runs.
        work_dir: Where the files are written.
        failed: ``row``, ``seed``, ``run`` and ``failed``, the reason, of runs that failed.
        picture: Draw the picture, too, which takes a second.
    """
    order, configs = list(sweep.rows), [row.config for row in sweep.rows.values()]
    results: dict[str, Any] = {
        "metrics": list(sweep.metrics),
        "best_on_test": all(each.get("val_dataloader") == each.test_dataloader for each in configs),
        "baseline": sweep.baseline,
        "rows": {name: {"recipe": row.recipe, "config": row.source} for name, row in sweep.rows.items()},
        "runs": sorted(finished, key=lambda cell: (order.index(cell["row"]), cell["seed"])),
        "failed": list(failed),
    }
    table = render_tables(results)
    rows, columns = _rows(results), [*table_columns(results), *_exit_columns(results["runs"])]
    replace_file(work_dir / "table.md", table.encode())
    replace_file(work_dir / "table.csv", comma_separated(rows, columns, "config").encode())
    replace_file(work_dir / "results.json", _to_json(results))
    if picture:
        replace_file(work_dir / "table.png", _picture(results))
    return table


def render_tables(results: Results) -> str:
    """Return a sweep's table as Markdown; below it the runs that failed, and how well exits predict beside chance."""
    parts = [markdown(_rows(results), table_columns(results), "config")]
    parts += [f"Failed: {cell['row']}, seed {cell['seed']}: {cell['failed']}\n" for cell in results["failed"]]
    with_exits = [cell for cell in results["runs"] if "exit/chance" in cell]
    for metric, cells in group(with_exits, "exit/metric").items():
        parts.append(f"Exits, {metric}, in percent; chance is the best constant prediction:\n")
        parts.append(markdown(group(cells, "row"), _exit_columns(cells), "config"))
    return "\n".join(parts)


def table_columns(results: Results) -> list[Column]:
    """Return the columns of a table: each metric at the last epoch, then at the best one, then the costs."""
    metrics, baseline = results["metrics"], results["baseline"]
    kind = "best epoch on the test data" if results["best_on_test"] else "best validation epoch"
    last = [Column(metric, f"{metric}, last epoch", spread=True) for metric in metrics]
    gain = [Column("gain", f"over {baseline}", "+.2f")] if baseline else []
    best = [Column(f"best/{metric}", f"{metric}, {kind}", spread=True) for metric in metrics]
    return [*last[:1], *gain, *last[1:], *best, *COST_COLUMNS]


def write_page(file: Path, work_dir: Path | None = None, command: str = "") -> Path:
    """Write a page of the docs, ``NAME.md`` and ``NAME.png``, from the results in ``NAME.json``.

    Beside a ``metafile.yml`` the list of all pages and this file are written too.

    Args:
        file: The JSON file; by hand one writes ``title``, ``text`` (above the table) and ``findings`` (below it) there.
        work_dir: Put the results of this sweep into it first, instead of those that it has.
        command: That made them.

    Returns:
        The page.

    Raises:
        ValueError: There are no results, or the file is not understood.
    """
    if work_dir is not None:
        before = _read(file) if file.is_file() else {}
        texts = {key: before.get(key, "") for key in PAGE_TEXTS}
        replace_file(file, _to_json({**texts, "command": command, **_read(work_dir / "results.json")}))
    results = _read(file)
    page = file.with_suffix(".md")
    replace_file(file.with_suffix(".png"), _picture(results))
    replace_file(page, render_page(results, file.stem).encode())
    if (file.parent / "metafile.yml").is_file():
        pages = {each.stem: json.loads(each.read_text()) for each in sorted(file.parent.glob("*.json"))}
        replace_file(file.parent / "README.md", render_index(pages).encode())
        replace_file(file.parent / "metafile.yml", render_metafile(pages).encode())
    return page


def render_page(results: Results, name: str) -> str:
    """Return the page of ``docs/results/<name>.json``."""
    given = [results.get(key, "") for key in PAGE_TEXTS]
    title, text, findings = ((part if isinstance(part, str) else "\n".join(part)).strip() for part in given)
    metric = results["metrics"][0]
    parts = [
        f"<!-- Written from {name}.json by kd-mm compare --page {name}.json: change the texts there. -->",
        f"# {title or name}",
        text,
        render_tables(results).strip(),
        f"![{metric}: mean, standard deviation and single runs of each row]({name}.png)",
        findings,
        f"```\n{results['command']}\n```" if results.get("command") else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_index(results: Mapping[str, Results]) -> str:
    """Return the list of pages by name: what they compare, and the best row of each.

    That is one whose network has the size of the baseline's.
    """
    lines = [f"<!-- {_WRITTEN} -->", "", "# Results", "", "| table | rows | runs | best student | its last epoch |"]
    lines.append("|---|--:|--:|---|--:|")
    for name, page in results.items():
        metric, rows = page["metrics"][0], group(page["runs"], "row")
        size = (rows.get(page.get("baseline") or "") or page["runs"])[0].get("params")
        students = {row: cells for row, cells in rows.items() if cells[0].get("params") == size}
        scores = {row: Measure.of([cell[metric] for cell in cells]) for row, cells in students.items()}
        best = max(scores, key=lambda row: scores[row].mean)
        link, runs = f"[{page.get('title') or name}]({name}.md)", len(page["runs"])
        lines.append(f"| {link} | {len(rows)} | {runs} | {best} | {metric} {scores[best].mean:.2f} |")
    return "\n".join(lines) + "\n"


def render_metafile(results: Mapping[str, Results]) -> str:
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


def fingerprint_of(results: Results) -> str:
    """Return a hash of what the picture draws, which the PNG file holds as its description."""
    drawn = [results["metrics"][0], *([cell["row"], cell[results["metrics"][0]]] for cell in results["runs"])]
    return hashlib.sha256(json.dumps(drawn).encode()).hexdigest()[:16]


def _rows(results: Results) -> dict[str, list[Cell]]:
    """Return the results by row, each with what it gains over the mean of the baseline; rows of failed runs alone are
    empty."""
    rows, metric = group(results["runs"], "row"), results["metrics"][0]
    failed = [row for row in group(results["failed"], "row") if row not in rows]
    return {**_gains(rows, metric, results["baseline"]), **{f"{row} (failed)": [] for row in failed}}


def _gains(rows: Mapping[str, list[Cell]], metric: str, baseline: str | None) -> Mapping[str, list[Cell]]:
    alone = [cell[metric] for cell in rows.get(baseline or "", [])]
    if not alone:
        return rows
    mean = sum(alone) / len(alone)
    return {
        name: [{**cell, "gain": None if name == baseline else cell[metric] - mean} for cell in cells]
        for name, cells in rows.items()
    }


def _exit_columns(cells: Sequence[Cell]) -> list[Column]:
    found = dict.fromkeys(key for cell in cells for key in cell if key.startswith("exit/") and key != "exit/metric")
    keys = sorted(found, key=lambda key: key == "exit/chance")  # the last column
    return [Column(key, key.removeprefix("exit/").replace("/", ", stage "), ".1f") for key in keys]


def _picture(results: Results) -> bytes:
    metric = results["metrics"][0]
    scores = {row: [cell[metric] for cell in cells] for row, cells in group(results["runs"], "row").items()}
    return to_png(draw_comparison(scores, metric), description=fingerprint_of(results))


def _read(file: Path) -> dict[str, Any]:
    try:
        results: dict[str, Any] = json.loads(file.read_text())
    except OSError as error:
        raise ValueError(f"{file}: there are no results; run the sweep first, or give --page PATH with them") from error
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    missing = [key for key in ("metrics", "runs") if not (isinstance(results, dict) and results.get(key))]
    if missing:
        raise ValueError(f"{file}: there is no {missing[0]!r} in it; kd-mm compare SWEEP --page {file} writes it")
    return {"baseline": None, "best_on_test": False, "failed": [], **results}


def _to_json(results: Results) -> bytes:
    return (json.dumps(results, indent=2, ensure_ascii=False) + "\n").encode()
