"""Train every config family of the installed mmdet two steps and say what stops the others.

    python -m tests.compat.sweep                        # all families, less than an hour on one core
    python -m tests.compat.sweep dcn carafe             # these
    python -m tests.compat.sweep --results sweep.json --write tests/compat/families.md

Each config runs in a process of its own with one thread and a time limit.
"""

from __future__ import annotations

import argparse
import difflib
import json
import multiprocessing
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import mmdet
import torch
from mmdet.utils import register_all_modules
from mmengine.logging import MMLogger

import kd_mm
from tests.compat import families, samples


def attempt(path: Path) -> dict[str, Any]:
    """Build, train, predict; what failed is named."""
    result: dict[str, Any] = {"config": str(path), "trains": False, "predicts": False, "reason": ""}
    began = time.monotonic()
    with families.called_operators() as called:
        _advance(path, result)
    result["operators"] = sorted(called)
    result["seconds"] = time.monotonic() - began
    return result


def _advance(path: Path, result: dict[str, Any]) -> None:
    """Go as far as the config goes."""
    try:
        model = families.prepare(families.load(path))
        data = samples.batch(model)
        detector = families.build(model, data)
        result["losses"] = families.train(detector, data)
        result["trains"] = True
        if samples.takes_images(data):
            families.predict(detector, data)
            result["predicts"] = True
    except Exception as error:  # any failure is a finding
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = " ".join(str(error).split())[:160]
        result["reason"] = f"{type(error).__name__}: {message} ({Path(place.filename).name}:{place.lineno})"


def _child(path: Path, end: Connection) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    MMLogger.get_current_instance().setLevel("ERROR")
    end.send(attempt(path))


def limited(path: Path, seconds: float) -> dict[str, Any]:
    """`attempt` in a process of its own."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(path, there))
    process.start()
    there.close()
    failed = {"config": str(path), "trains": False, "predicts": False, "operators": [], "seconds": seconds}
    try:
        result = here.recv() if here.poll(seconds) else {**failed, "reason": f"took longer than {seconds:g} s"}
    except EOFError:
        process.join()
        result = {**failed, "reason": f"the process died (exit code {process.exitcode})"}
    process.kill()
    process.join()
    return result


def said(result: dict[str, Any]) -> str:
    """What one row of the table says of a config."""
    if result["predicts"]:
        return "trains, predicts"
    if not result["trains"]:
        return result["reason"]
    return f"trains; predicts not: {result['reason']}" if result["reason"] else "trains"


def why_not(results: list[dict[str, Any]]) -> str:
    """What keeps a family from training."""
    if not results:
        return "holds no model, only settings"
    return "; ".join(f"{Path(r['config']).name}: {r['reason']}" for r in results if not r["trains"])


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: counts of families, then every config that stood for one.

    A family counts as training where all its rows do.
    """
    train = [name for name, results in rows.items() if results and all(r["trains"] for r in results)]
    rest = [name for name in rows if name not in train]
    lines = [
        "# mmdet's config families on the operators of this process",
        "",
        f"mmdet {mmdet.__version__}, torch {torch.__version__}, operators: {kd_mm.compat.report().source}.",
        "",
        f"{len(train)} of {len(rows)} families train: two steps of loss, backward pass and update on two images, at",
        "upstream's widths, without pretrained weights. A family has a further row where one more config brings in a",
        "further operator. Made by `python -m tests.compat.sweep --write FILE`.",
        "",
        f"The others ({len(rest)}):",
        "",
        *(f"* {name}: {why_not(rows[name])}" for name in rest),
        "",
        "| config | outcome | operators of mmcv that ran |",
        "| --- | --- | --- |",
    ]
    for results in rows.values():
        for result in results:
            operators = ", ".join(result["operators"]) or "none"
            lines.append(f"| {result['config']} | {said(result)} | {operators} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="folders of mmdet's configs (default: all)")
    parser.add_argument("--limit", type=float, default=600, help="seconds for one config (default: 600)")
    parser.add_argument("--results", type=Path, help="JSON file that keeps results; what it holds is not run again")
    parser.add_argument("--write", type=Path, help="file for the table, in Markdown")
    args = parser.parse_args()
    known = families.names()
    for name in args.families:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            parser.error(f"no family '{name}' in {families.FOLDER}" + (f"; did you mean '{near[0]}'?" if near else ""))
    register_all_modules(init_default_scope=True)
    rows: dict[str, list[dict[str, Any]]] = {}
    if args.results and args.results.is_file():
        rows = json.loads(args.results.read_text())
    for family in args.families or [name for name in known if name not in rows]:
        rows[family] = []
        for path in families.representatives(family):
            result = limited(path, args.limit)
            rows[family].append(result)
            print(f"{result['seconds']:4.0f} s  {path}: {said(result)}", flush=True)
        if args.results:
            args.results.write_text(json.dumps(rows, indent=1))
    if args.write:
        args.write.write_text(table({name: rows[name] for name in known if name in rows}))


if __name__ == "__main__":
    main()
