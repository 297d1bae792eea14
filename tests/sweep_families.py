"""Distil each family of upstream with itself as teacher; resumable.

    python -m tests.sweep_families [--task detection] [--only NAME ...] [--minutes 30] [--again]

Each family runs in a process of its own. After each row docs/families.json is written, and from it docs/families.md and
a table of docs/detectors.md; a row that is there, of the same config and versions of upstream, is not run again.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import re
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger

from kd_mm.utils.atomic_files import replace_file

from .helpers import classifier_families, detector_families
from .helpers.family_pairs import RECIPES, Family, classifiers, detectors, run

DOCS = Path(__file__).parents[1] / "docs"
SOURCES = {"classification": classifiers, "detection": detectors}
TEXT = """<!-- Written by python -m tests.sweep_families from families.json. -->

# Families of upstream, distilled

Each family of mmpretrain and mmdet, its config made small (narrower networks, few regions, images of 32 to 300 pixels),
trains two plain steps, then two steps with each of the recipes `mtkd_ssr`, `kd` and `pkd`, with the same network as
teacher (its weights at the start, exits untrained). Losses and gradients have to be finite and to reach the student,
and the distilled weights have to load strictly into the plain network.

```bash
make sweep-families  # resumable: runs what families.json has not yet, or has of other configs or versions of upstream
```

"yes": all of this. "refused": training does not begin and the line below the table says why. A row that is not in a
table has not been run.
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=list(SOURCES), help="classifiers or detectors alone")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="these folders of upstream alone, or configs of mmpretrain",
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no row after this time")
    parser.add_argument("--limit", type=int, default=300, metavar="SECONDS", help="longest CPU time of a row")
    parser.add_argument("--again", action="store_true", help="run rows that are there, too")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the three files")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    file, end = args.docs / "families.json", time.monotonic() + 60 * args.minutes
    chosen = [SOURCES[args.task]] if args.task else SOURCES.values()
    for family in chain.from_iterable(source(args.only) for source in chosen):
        mark = family.fingerprint()
        done = _read(file)[family.task].get(family.config, {}).get("fingerprint") == mark and not args.again
        if done:
            continue
        if time.monotonic() > end:
            break
        row = _in_child(family, args.limit)
        print(family.config, *[f"{name}={text}" for name, text in row["recipes"].items()] or [row["plain"]], flush=True)
        results = _read(file)  # another process may have added rows
        results[family.task][family.config] = {"family": family.name, "fingerprint": mark, **row}
        replace_file(file, (json.dumps(results, indent=1, sort_keys=True) + "\n").encode())
        replace_file(args.docs / "families.md", render(results).encode())
        page = args.docs / "detectors.md"
        replace_file(page, with_table(page.read_text(), results["detection"]).encode())
    return 0


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.is_file() else {task: {} for task in SOURCES}


def _in_child(family: Family, limit: int) -> dict[str, Any]:
    """Run a row in a process of its own, which may run out of time or of memory."""
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(family, limit, sender))
    process.start()
    sender.close()
    try:
        row: dict[str, Any] = receiver.recv()
    except EOFError:
        row = {"plain": f"fails: no result in {limit} seconds of CPU time, or the process died", "recipes": {}}
    process.join()
    return row


def _child(family: Family, limit: int, sender: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    MMLogger.get_instance("families", log_level="ERROR")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        sender.send(run(family, Path(folder)))


def render(results: dict[str, Any]) -> str:
    """Return the page of the docs: a table a task, and below it each line that refuses something, with its rows."""
    parts = [TEXT]
    counts = {"classification": len(classifier_families.cases()), "detection": len(detector_families.names())}
    for task, package in (("classification", "mmpretrain"), ("detection", "mmdet")):
        parts.append(f"\n## {package}: {task}\n\n{_table(results[task], counts[task])}")
    parts.append(
        "\nmmpretrain's folders without a row hold self-supervised and multimodal networks, which give no class "
        f"logits: {', '.join(classifier_families.without_classifier())}.\n"
    )
    return "".join(parts)


def with_table(page: str, rows: dict[str, Any]) -> str:
    """Return docs/detectors.md with the table of the families that distil, by what ended in steps."""
    groups: dict[str, list[str]] = defaultdict(list)
    for row in rows.values():
        ends = [f"{name} {row['recipes'][name].partition(':')[0]}" for name in RECIPES if name in row["recipes"]]
        groups[", ".join(ends) or "does not train plain"].append(row["family"])
    groups["not run, or settings alone"] = sorted(
        set(detector_families.names()) - {row["family"] for row in rows.values()}
    )
    lines = [f"| {ends} | {len(names)} | {', '.join(sorted(names))} |\n" for ends, names in groups.items()]
    table = "".join(["| distilled, itself as teacher | families | |\n| --- | --: | --- |\n", *sorted(lines)])
    return re.sub(r"(?s)(?<=<!-- sweep-families -->\n).*?(?=<!-- end -->)", lambda _: table, page)


def _table(rows: dict[str, Any], count: int) -> str:
    trained = {config: row for config, row in sorted(rows.items()) if row["plain"] == "yes"}
    lines = [f"| config | {' | '.join(RECIPES)} |", f"|---|{'---|' * len(RECIPES)}"]
    reasons: dict[str, list[str]] = {}
    for config, row in trained.items():
        lines.append(f"| {config} | {' | '.join(row['recipes'][name].partition(':')[0] for name in RECIPES)} |")
        for name, text in row["recipes"].items():
            if text != "yes":
                reasons.setdefault(text, []).append(f"{row['family']} ({name})")
    for config, row in sorted(rows.items()):
        if config not in trained:
            reasons.setdefault(f"plain training {row['plain']}", []).append(config)
    every = sum(set(row["recipes"].values()) == {"yes"} for row in trained.values())
    head = f"{len(rows)} of {count} rows run: {len(trained)} train plain, {every} distil with all three recipes.\n\n"
    notes = "".join(f"\n* {text}\n  {', '.join(names)}" for text, names in sorted(reasons.items()))
    return head + "\n".join(lines) + "\n" + (f"{notes}\n" if notes else "")


if __name__ == "__main__":
    sys.exit(main())
