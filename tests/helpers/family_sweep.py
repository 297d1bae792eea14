"""Train every config family of the installed mmdet for two steps and report the failures.

    python -m tests.helpers.family_sweep                # all families, less than an hour on one core
    python -m tests.helpers.family_sweep dcn carafe     # these
    python -m tests.helpers.family_sweep --results work_dirs/sweep.json --write docs/detectors.md

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

from . import detection_samples as samples
from . import detector_families as families


def attempt(path: Path) -> dict[str, Any]:
    """Build, train and predict; name the step that fails."""
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
    except Exception as error:  # any failure is a result
        frame = traceback.extract_tb(error.__traceback__)[-1]
        message = " ".join(str(error).split())[:160]
        result["reason"] = f"{type(error).__name__}: {message} ({Path(frame.filename).name}:{frame.lineno})"


def _child(path: Path, end: Connection) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    MMLogger.get_current_instance().setLevel("ERROR")
    end.send(attempt(path))


def limited(path: Path, seconds: float) -> dict[str, Any]:
    """Run `attempt` in a new process with a time limit."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(path, sender))
    process.start()
    sender.close()
    failed = {"config": str(path), "trains": False, "predicts": False, "operators": [], "seconds": seconds}
    try:
        result = receiver.recv() if receiver.poll(seconds) else {**failed, "reason": f"took longer than {seconds:g} s"}
    except EOFError:
        process.join()
        result = {**failed, "reason": f"the process died (exit code {process.exitcode})"}
    process.kill()
    process.join()
    return result


def summary(result: dict[str, Any]) -> str:
    """Return the result of one config in a line."""
    if result["predicts"]:
        return "trains, predicts"
    if not result["trains"]:
        return result["reason"]
    return f"trains; does not predict: {result['reason']}" if result["reason"] else "trains"


def outcome(results: list[dict[str, Any]]) -> str:
    """Which row of the table a family belongs to: that of its worst config."""
    if not results:
        return "holds no model, only settings"
    reasons = [result["reason"] for result in results if not result["trains"]]
    if any("install" in reason for reason in reasons):
        return "needs a package that is not installed here"
    if any("Please train" in reason for reason in reasons):
        return "is not trained upstream either"
    return "does not train" if reasons else "trains"


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: how many families train, which ones, the errors of the others, and the operators that ran."""
    groups: dict[str, list[str]] = {}
    for name, results in rows.items():
        groups.setdefault(outcome(results), []).append(name)
    configs = [result for results in rows.values() for result in results]
    failures = [f"* {result['config']}: {summary(result)}" for result in configs if not result["predicts"]]
    users: dict[str, set[str]] = {}
    for name, results in rows.items():
        for operator in {operator for result in results for operator in result["operators"]}:
            users.setdefault(operator, set()).add(name)
    lines = [
        "# mmdet's config families without a compiler",
        "",
        f"{len(groups.get('trains', []))} of {len(rows)} families train (mmdet {mmdet.__version__}, torch "
        f"{torch.__version__.partition('+')[0]}, operators: {kd_mm.ops.report().source}):",
        "two steps of loss, backward pass and update on two images, at upstream's widths, without pretrained weights.",
        f"{len(configs)} configs represent them: a small plain one each, and one more for each further operator.",
        "",
        "```bash",
        "python -m tests.helpers.family_sweep --results work_dirs/sweep.json --write docs/detectors.md  # an hour",
        "```",
        "",
        "| a family | families | |",
        "| --- | --: | --- |",
        *(f"| {kind} | {len(names)} | {', '.join(names)} |" for kind, names in groups.items()),
        "",
        "Configs that did not train or predict (prediction is not tried for trackers, semi-supervised",
        "and re-identification models, which train on more than single images):",
        "",
        *failures,
        "",
        "| operator | families whose step or prediction ran it |",
        "| --- | --: |",
        *(f"| {name} | {len(families)} |" for name, families in sorted(users.items())),
    ]
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
    if args.results:
        args.results.parent.mkdir(parents=True, exist_ok=True)
    if args.results and args.results.is_file():
        rows = json.loads(args.results.read_text())
    for family in args.families or [name for name in known if name not in rows]:
        rows[family] = []
        for path in families.representatives(family):
            result = limited(path, args.limit)
            rows[family].append(result)
            print(f"{result['seconds']:4.0f} s  {path}: {summary(result)}", flush=True)
        if args.results:
            args.results.write_text(json.dumps(rows, indent=1))
    if args.write:
        args.write.write_text(table({name: rows[name] for name in known if name in rows}))


if __name__ == "__main__":
    main()
