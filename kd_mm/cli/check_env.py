"""Print what is installed, what is supported, which data sets are there, and what to do next.

Exit status 1 when something required is missing or outside of its range. Data sets are not required.
"""

# Only the standard library is imported at the top, and not kd_mm: this has to work where packages are missing.

import argparse
import contextlib
import io
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module, metadata
from pathlib import Path

DISTRIBUTION = "kd-mm"
#: Packages in the order of their import, and the distributions that kd_mm asks for. kd_mm brings the stand-in operators
#: without which mmdet does not import.
_IMPORTS = {
    "torch": "torch",
    "torchvision": "torchvision",
    "mmengine": "onedl-mmengine",
    "mmcv": "onedl-mmcv",
    "kd_mm": DISTRIBUTION,
    "mmpretrain": "onedl-mmpretrain",
    "mmdet": "onedl-mmdetection",
}
#: Entries of mmengine's report that are not printed: long, or no property of the machine.
_OMITTED = ("sys.platform", "Python", "numpy_random_seed", "PyTorch compiling details")


class Layout:
    """Where a data set is looked for and what its official layout holds.

    Args:
        folders: Below the data root, separated by spaces; the first is the one that the configs name.
        expected: Files and folders in it, separated by spaces; a folder ends with a slash.
        source: Where the data set is to be had.
    """

    def __init__(self, folders: str, expected: str, source: str) -> None:
        self.folders, self.expected, self.source = folders.split(), expected.split(), source


_CIFAR, _VOC = "https://www.cs.toronto.edu/~kriz/cifar.html", "http://host.robots.ox.ac.uk/pascal/VOC"
_CIFAR10_FILES = "data_batch_1 data_batch_2 data_batch_3 data_batch_4 data_batch_5 test_batch batches.meta"
_CUB_FILES = "images.txt image_class_labels.txt train_test_split.txt images/"
_TINY_FILES = "wnids.txt words.txt train/ val/val_annotations.txt val/images/"
_VOC_FILES = "Annotations/ ImageSets/Main/ JPEGImages/"
_MARKET = "https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html (Market-1501-v15.09.15.zip)"
DATA_SETS = {
    "CIFAR-10": Layout("cifar10/cifar-10-batches-py", _CIFAR10_FILES, f"{_CIFAR} (cifar-10-python.tar.gz)"),
    "CIFAR-100": Layout("cifar100/cifar-100-python", "train test meta", f"{_CIFAR} (cifar-100-python.tar.gz)"),
    "CUB-200-2011": Layout(
        "CUB_200_2011", _CUB_FILES, "https://data.caltech.edu/records/65de6-vp158 (CUB_200_2011.tgz)"
    ),
    "ImageNet-1k": Layout(
        "imagenet", "train/ val/", "https://image-net.org/download-images.php (ILSVRC 2012, one folder a class)"
    ),
    "Tiny ImageNet": Layout("tiny-imagenet-200", _TINY_FILES, "http://cs231n.stanford.edu/tiny-imagenet-200.zip"),
    "Pascal VOC 2007": Layout("VOCdevkit/VOC2007", _VOC_FILES, f"{_VOC}/voc2007/ (trainval and test)"),
    "Pascal VOC 2012": Layout("VOCdevkit/VOC2012", _VOC_FILES, f"{_VOC}/voc2012/ (trainval)"),
    "Market-1501": Layout("Market-1501-v15.09.15 market1501", "bounding_box_train/ bounding_box_test/ query/", _MARKET),
}


@dataclass
class Environment:
    """What was found. ``problems`` and ``next`` are empty where everything required is there.

    Attributes:
        packages: Distribution to ``found`` (version or empty), ``needs`` (range), ``state`` (``"ok"``, ``"missing"`` or
            ``"out of range"``) and ``required``.
        imports: Import name to the error, empty where it imports.
        operators: Origin of mmcv's compiled operators.
        system: mmengine's report on devices, compilers and libraries.
        data: Data set to ``state`` (``"found"``, ``"incomplete"``, ``"missing"``), ``folder``, ``lacks``, ``source``.
    """

    python: str = platform.python_version()
    python_needs: str = ""
    platform: str = platform.platform()
    packages: dict[str, dict[str, str | bool]] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    operators: dict[str, str | int] = field(default_factory=dict)
    system: dict[str, str] = field(default_factory=dict)
    data: dict[str, dict[str, str | list[str]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)


def collect_environment(data_root: str | os.PathLike[str] = "data") -> Environment:
    """Examine this machine.

    Args:
        data_root: Folder that holds the data sets.
    """
    found = Environment()
    try:
        _check_packages(found)
    except ImportError:  # of kd-mm's metadata, or of `packaging`
        checkout = Path(__file__).resolve().parents[2]
        found.problems.append(f"{DISTRIBUTION} or one of its requirements is not installed")
        found.next.append(
            f"pip install {f'-e {checkout}' if (checkout / 'pyproject.toml').is_file() else DISTRIBUTION}"
        )
    _check_imports(found)
    found.data = {name: _check_data(layout, Path(data_root)) for name, layout in DATA_SETS.items()}
    return found


def _check_packages(found: Environment) -> None:
    about, lines = metadata.metadata(DISTRIBUTION), metadata.requires(DISTRIBUTION) or []
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    found.python_needs = about["Requires-Python"] or ""
    if not SpecifierSet(found.python_needs).contains(found.python, prereleases=True):
        found.problems.append(f"Python {found.python} is outside of {found.python_needs}")
        found.next.append(f"install a Python {found.python_needs} and make a virtual environment with it")
    providers, lacking = metadata.packages_distributions(), []
    for requirement in map(Requirement, lines):
        name, needs, marker = requirement.name, str(requirement.specifier), requirement.marker
        required = marker is None or marker.evaluate({"extra": ""})
        if marker is not None and not marker.evaluate({"extra": "onnx"}):
            continue
        version = _version(name)
        supported = requirement.specifier.contains(version, prereleases=True) if version else False
        state = "ok" if supported else "out of range" if version else "missing"
        found.packages[name] = {"found": version, "needs": needs, "state": state, "required": required}
        if supported or not required:
            continue
        lacking.append(f'"{name}{needs}"')
        found.problems.append(f"{name} {version} is outside of {needs}" if version else f"{name} is missing")
        # Another distribution of the same import package, such as mmcv for onedl-mmcv.
        module = next((module for module, wanted in _IMPORTS.items() if wanted == name), "")
        if others := set(providers.get(module, ())) - {name}:
            found.problems[-1] += f" ({', '.join(sorted(others))} is installed instead)"
            found.next.append(f"pip uninstall {' '.join(sorted(others))}")
    if lacking:
        found.next.append(f"pip install --upgrade {' '.join(lacking)}")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _check_imports(found: Environment) -> None:
    for name in _IMPORTS:
        try:
            # Upstream packages print while they are imported, which would break the JSON on standard output.
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                import_module(name)
            found.imports[name] = ""
        except Exception as error:  # a broken installation fails in any way
            found.imports[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            if not found.problems:
                found.problems.append(f"{name} does not import: {found.imports[name]}")
                found.next.append(f"python -c 'import {name}'  # shows where")
    if any(found.imports.values()):
        return
    report = import_module("kd_mm.ops").report()
    kind = "compiled" if report.compiled else "stand-ins"
    found.operators = {"kind": kind, "source": report.source, "operators": len(report.operators)}
    if report.problem:
        found.operators["problem"] = report.problem
    entries = import_module("mmengine.utils.dl_utils").collect_env()
    found.system = {key: str(value) for key, value in entries.items() if key not in _OMITTED}


def _check_data(layout: Layout, root: Path) -> dict[str, str | list[str]]:
    folders = [root / folder for folder in layout.folders]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    paths = {entry: folder / entry for entry in layout.expected}
    lacks = [entry for entry, path in paths.items() if not (path.is_dir() if entry.endswith("/") else path.is_file())]
    state = "missing" if not folder.is_dir() else "incomplete" if lacks else "found"
    lacks = lacks if state == "incomplete" else []
    return {"state": state, "folder": str(folder), "lacks": lacks, "source": layout.source}


def describe(found: Environment) -> str:
    """Return everything as text."""
    roles = {name: "" if package["required"] else ", for --onnx only" for name, package in found.packages.items()}
    sections: dict[str, list[tuple[object, str, object]]] = {
        "Packages": [
            (package["state"], name, f"{package['found'] or '-'} (supported: {package['needs'] or 'any'}{roles[name]})")
            for name, package in found.packages.items()
        ],
        "Imports": [("broken" if problem else "ok", name, problem) for name, problem in found.imports.items()],
        "Operators of mmcv": [("", key, value) for key, value in found.operators.items()],
        "System": [("", key, value) for key, value in found.system.items()],
        "Data sets": [(data["state"], name, _where(data)) for name, data in found.data.items()],
    }
    lines = [f"Python {found.python} (supported: {found.python_needs or 'unknown'}), {found.platform}"]
    for title, rows in sections.items():
        lines += ["", title, *(f"  {state:<12} {name:<20} {text}".rstrip() for state, name, text in rows)]
    lines += ["", *(f"problem: {problem}" for problem in found.problems)]
    lines += [f"next:    {command}" for command in found.next]
    return "\n".join(lines if found.problems else [*lines, "Everything that is required is here."])


def _where(data: dict[str, str | list[str]]) -> str:
    source = "" if data["state"] == "found" else f"; get it from {data['source']}"
    return f"{data['folder']}{source}" + (f" (lacks {', '.join(data['lacks'])})" if data["lacks"] else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/check_env.py``; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--data-root", default="data", help="folder that holds the data sets (default: data)")
    args = parser.parse_args(argv)
    found = collect_environment(args.data_root)
    print(json.dumps(asdict(found), indent=2) if args.json else describe(found))
    return 1 if found.problems else 0
