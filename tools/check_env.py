"""Say what is installed, what is supported, which data sets are there, and what to do next.

Exit status 1 when something required is missing or outside of its range. Data sets are not required.
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_environment() -> ModuleType:
    """Load kd_mm/apis/environment.py by its path: importing kd_mm would need everything that is to be checked."""
    here = Path(__file__).resolve().parent
    places = [here.parent / "kd_mm", here.parent.parent]  # a checkout, an installed kd_mm/.mim/tools
    package = next((place for place in places if (place / "apis" / "environment.py").is_file()), None)
    if package is None:
        sys.exit("error: kd_mm/apis/environment.py was not found beside this tool; run it from a checkout of kd_mm")
    spec = importlib.util.spec_from_file_location("kd_mm_environment", package / "apis" / "environment.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def show(found) -> None:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--data-root", default="data", help="folder that holds the data sets (default: data)")
    args = parser.parse_args()
    found = load_environment().examine(args.data_root)
    if args.json:
        print(found.as_json())
    else:
        show(found)
    sys.exit(1 if found.problems else 0)


if __name__ == "__main__":
    main()
