"""Say what is installed, what is supported, which data sets are there, and what to do next.

Exit status 1 when something required is missing or outside of its range. Data sets are not required.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from kd_mm.apis.environment import examine


def show(found: Any) -> None:
    def row(mark: str, name: str, rest: str) -> None:
        print(f"  {mark:<12} {name:<20} {rest}".rstrip())

    print(f"Python {found.python} (supported: {found.python_needs}), {found.platform}")
    print("\nPackages")
    for name, package in found.packages.items():
        role = "" if package["required"] else ", for --onnx only"
        row(package["state"], name, f"{package['found'] or '-'} (supported: {package['needs'] or 'any'}{role})")
    broken = {name: problem for name, problem in found.imports.items() if problem}
    print("\nImports")
    for name, problem in found.imports.items():
        row("broken" if problem else "ok", name, problem)
    print("\nOperators of mmcv")
    if found.operators:
        count = f", {found.operators['operators']} of them" if found.operators["kind"] == "stand-ins" else ""
        row(found.operators["kind"], "", f"{found.operators['source']}{count}")
        if "problem" in found.operators:
            row("problem", "", str(found.operators["problem"]))
    else:
        row("unknown", "", f"kd_mm does not import ({broken.get('kd_mm', '')})")
    print("\nDevices")
    for name, value in found.devices.items():
        row("", name, str(value) if value != "" else "none")
    print("\nData sets")
    for name, data in found.data.items():
        rest = data["folder"] if data["state"] == "found" else f"{data['folder']}; get it from {data['source']}"
        lacks = f" (lacks {', '.join(data['lacks'])})" if data["lacks"] else ""
        row(data["state"], name, rest + lacks)
    print()
    for problem in found.problems:
        print(f"problem: {problem}")
    for command in found.next:
        print(f"next:    {command}")
    if not found.problems:
        print("Everything that is required is here.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--data-root", default="data", help="folder that holds the data sets (default: data)")
    args = parser.parse_args(argv)
    found = examine(args.data_root)
    if args.json:
        print(found.as_json())
    else:
        show(found)
    return 1 if found.problems else 0
