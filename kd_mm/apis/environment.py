"""Say what is installed, what is supported, which data sets are there, and what to do next.

Exit status 1 when something required is missing or outside of its range. Data sets are not required.
"""

# This file uses the standard library alone and imports everything else late, because it has to work where packages are
# missing. So it must not import ``kd_mm`` at the top either.

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module, metadata, util
from pathlib import Path

DISTRIBUTION = "kd-mm"
#: Import names whose distributions go by several names, here without the one that kd_mm asks for.
_OTHER_DISTRIBUTIONS = {
    "onedl-mmengine": ("mmengine", "mmengine-lite"),
    "onedl-mmcv": ("mmcv", "mmcv-lite", "mmcv-full"),
    "onedl-mmdetection": ("mmdet",),
    "onedl-mmpretrain": ("mmpretrain",),
}
# Imported in this order: kd_mm brings the stand-in operators without which mmdet does not import.
_IMPORTS = ("torch", "torchvision", "mmengine", "mmcv", "kd_mm", "mmpretrain", "mmdet")


@dataclass(frozen=True)
class Layout:
    """Where a data set is looked for and what its official layout holds.

    Attributes:
        folders: Below the data root; the first is the one that the configs name.
        expected: Files and folders in it; a folder ends with a slash.
        source: Where the data set is to be had.
    """

    folders: tuple[str, ...]
    expected: tuple[str, ...]
    source: str


DATA_SETS = {
    "CIFAR-10": Layout(
        ("cifar10/cifar-10-batches-py",),
        (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
        "https://www.cs.toronto.edu/~kriz/cifar.html (cifar-10-python.tar.gz)",
    ),
    "CIFAR-100": Layout(
        ("cifar100/cifar-100-python",),
        ("train", "test", "meta"),
        "https://www.cs.toronto.edu/~kriz/cifar.html (cifar-100-python.tar.gz)",
    ),
    "CUB-200-2011": Layout(
        ("CUB_200_2011",),
        ("images.txt", "image_class_labels.txt", "train_test_split.txt", "images/"),
        "https://data.caltech.edu/records/65de6-vp158 (CUB_200_2011.tgz)",
    ),
    "ImageNet-1k": Layout(
        ("imagenet",), ("train/", "val/"), "https://image-net.org/download-images.php (ILSVRC 2012, one folder a class)"
    ),
    "Tiny ImageNet": Layout(
        ("tiny-imagenet-200",),
        ("wnids.txt", "words.txt", "train/", "val/val_annotations.txt", "val/images/"),
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    ),
    "Pascal VOC 2007": Layout(
        ("VOCdevkit/VOC2007",),
        ("Annotations/", "ImageSets/Main/", "JPEGImages/"),
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/ (trainval and test)",
    ),
    "Pascal VOC 2012": Layout(
        ("VOCdevkit/VOC2012",),
        ("Annotations/", "ImageSets/Main/", "JPEGImages/"),
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ (trainval)",
    ),
    "Market-1501": Layout(
        ("market1501", "Market-1501-v15.09.15"),
        ("bounding_box_train/", "bounding_box_test/", "query/"),
        "https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html (Market-1501-v15.09.15.zip)",
    ),
}


@dataclass
class Environment:
    """What was found. ``problems`` is empty where everything required is there; ``next`` is then empty, too.

    Attributes:
        packages: Name to ``found`` (version or empty), ``needs`` (range), ``state`` (``"ok"``, ``"missing"`` or
            ``"out of range"``) and ``required``.
        imports: Import name to what went wrong, empty where it imports.
        operators: Where mmcv's compiled operators come from.
        devices: torch's devices, and CPU threads.
        data: Data set to ``state`` (``"found"``, ``"incomplete"``, ``"missing"``), ``folder``, ``lacks``, ``source``.
    """

    python: str = ""
    python_needs: str = ""
    platform: str = ""
    packages: dict[str, dict[str, str | bool]] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    operators: dict[str, str | int] = field(default_factory=dict)
    devices: dict[str, str | int] = field(default_factory=dict)
    data: dict[str, dict[str, str | list[str]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        """Return everything as JSON."""
        return json.dumps(asdict(self), indent=2)


def collect_environment(data_root: str | os.PathLike[str] = "data", source: Path | None = None) -> Environment:
    """Look at this machine.

    Args:
        data_root: Folder that holds the data sets.
        source: Folder of a checkout with ``pyproject.toml``; default: the one around this file, if any.
    """
    found = Environment(python=platform.python_version(), platform=platform.platform())
    source = source or Path(__file__).resolve().parents[2]
    checkout = source if (source / "pyproject.toml").is_file() else None
    found.python_needs, needs = _requirements(checkout)
    if not needs:
        found.problems.append("the supported ranges are unknown: there is no pyproject.toml and kd-mm is not installed")
    with contextlib.suppress(ImportError):  # `packaging`, which is then reported as missing
        if not in_range(found.python, found.python_needs):
            found.problems.append(f"Python {found.python} is outside of {found.python_needs}")
            found.next.append(f"install a Python {found.python_needs} and make a virtual environment with it")
    _check_packages(found, needs, checkout)
    _check_imports(found)
    found.data = {name: _check_data(layout, Path(data_root)) for name, layout in DATA_SETS.items()}
    return found


# -- packages --------------------------------------------------------------------------------------------------------


def in_range(version: str, needs: str) -> bool:
    """Return whether a version lies in a range such as ``>=2.4,<3``; pre-releases count."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(needs).contains(version, prereleases=True)


def _requirements(checkout: Path | None) -> tuple[str, dict[str, tuple[str, bool]]]:
    """Return the range of Python and, by distribution, the range and whether it is required (else: for ONNX)."""
    with contextlib.suppress(ImportError, OSError):
        tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "pip._vendor.tomli")
        if checkout is not None:
            project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
            optional = project.get("optional-dependencies", {}).get("onnx", [])
            return project["requires-python"], _parse(project["dependencies"], True) | _parse(optional, False)
    try:
        about, lines = metadata.metadata(DISTRIBUTION), metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return "", {}
    required = [line for line in lines if "extra ==" not in line]
    optional = [line for line in lines if re.search(r"extra == ['\"]onnx['\"]", line)]
    return str(about["Requires-Python"] or ""), _parse(required, True) | _parse(optional, False)


def _parse(lines: Sequence[str], required: bool) -> dict[str, tuple[str, bool]]:
    # `packaging` may be missing where the names are needed.
    matches = (re.match(r"([\w.-]+)\s*(?:\[[^\]]*\])?\s*([^;]*)", line) for line in lines)
    return {match[1]: (match[2].strip(), required) for match in matches if match}


def _check_packages(found: Environment, needs: dict[str, tuple[str, bool]], checkout: Path | None) -> None:
    lacking = []
    for name, (wanted, required) in needs.items():
        version = _version(name)
        state = "missing" if not version else "ok" if in_range(version, wanted) else "out of range"
        found.packages[name] = {"found": version, "needs": wanted, "state": state, "required": required}
        if state == "ok" or not required:
            continue
        lacking.append(f"{name}{wanted}")
        found.problems.append(f"{name} is missing" if not version else f"{name} {version} is outside of {wanted}")
        others = [other for other in _OTHER_DISTRIBUTIONS.get(name, ()) if _version(other)]
        if others:
            found.problems[-1] += f" ({others[0]} {_version(others[0])} is installed instead)"
            found.next.append(f"pip uninstall {' '.join(others)}")
    here = util.find_spec("kd_mm") is not None
    if not here:
        found.problems.append("kd_mm cannot be imported: the package is not installed")
    if lacking or not here:
        quoted = " ".join(f'"{item}"' for item in lacking)
        install = f"pip install -e {checkout}" if checkout else f"pip install {DISTRIBUTION}"
        found.next.append(install if not here else f"pip install --upgrade {quoted}")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


# -- what runs -------------------------------------------------------------------------------------------------------


def _check_imports(found: Environment) -> None:
    for name in _IMPORTS:
        output = io.StringIO()
        try:
            # Upstream packages print while they are imported; standard output is ours.
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                import_module(name)
            found.imports[name] = ""
        except Exception as error:  # a broken installation fails in any way
            found.imports[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            known = any("missing" in problem or "cannot be imported" in problem for problem in found.problems)
            if not known:
                found.problems.append(f"{name} does not import: {found.imports[name]}")
                found.next.append(f"python -c 'import {name}'  # shows where")
    _check_devices(found)
    if not any(found.imports[name] for name in ("torchvision", "mmcv", "kd_mm")):
        report = import_module("kd_mm.ops").report()
        kind = "compiled" if report.compiled else "stand-ins"
        found.operators = {"kind": kind, "source": report.source, "operators": len(report.operators)}
        if report.problem:
            found.operators["problem"] = report.problem


def _check_devices(found: Environment) -> None:
    threads = os.environ.get("OMP_NUM_THREADS", "")
    found.devices = {"cpu cores": os.cpu_count() or 0, "OMP_NUM_THREADS": threads, "cuda": ""}
    if found.imports["torch"]:
        return
    torch = sys.modules["torch"]
    found.devices["cpu threads of torch"] = torch.get_num_threads()
    found.devices["cuda"] = torch.version.cuda or "" if torch.cuda.is_available() else ""
    found.devices["gpus"] = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    if torch.version.cuda and not torch.cuda.is_available():
        found.devices["note"] = f"torch is built for CUDA {torch.version.cuda}, but finds no GPU or driver"


# -- data sets -------------------------------------------------------------------------------------------------------


def _check_data(layout: Layout, root: Path) -> dict[str, str | list[str]]:
    folders = [root / folder for folder in layout.folders]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    lacks = [entry for entry in layout.expected if not _exists(folder, entry)]
    state = "found" if not lacks else "incomplete" if folder.is_dir() else "missing"
    return {"state": state, "folder": str(folder), "lacks": lacks if folder.is_dir() else [], "source": layout.source}


def _exists(folder: Path, entry: str) -> bool:
    path = folder / entry
    return path.is_dir() if entry.endswith("/") else path.is_file()


# -- the tool ---------------------------------------------------------------------------------------------------------


def describe(found: Environment) -> str:
    """Return everything as text."""
    lines = [f"Python {found.python} (supported: {found.python_needs}), {found.platform}"]

    def row(state: str, name: str, text: str) -> None:
        lines.append(f"  {state:<12} {name:<20} {text}".rstrip())

    lines.append("\nPackages")
    for name, package in found.packages.items():
        role = "" if package["required"] else ", for --onnx only"
        version, needs = package["found"] or "-", package["needs"] or "any"
        row(str(package["state"]), name, f"{version} (supported: {needs}{role})")
    lines.append("\nImports")
    for name, problem in found.imports.items():
        row("broken" if problem else "ok", name, problem)
    lines.append("\nOperators of mmcv")
    if found.operators:
        count = f", {found.operators['operators']} of them" if found.operators["kind"] == "stand-ins" else ""
        row(str(found.operators["kind"]), "", f"{found.operators['source']}{count}")
        if "problem" in found.operators:
            row("problem", "", str(found.operators["problem"]))
    else:
        broken = [name for name in ("torchvision", "mmcv", "kd_mm") if found.imports[name]]
        row("unknown", "", f"{' and '.join(broken)} cannot be imported")
    lines.append("\nDevices")
    for name, value in found.devices.items():
        row("", name, str(value) if value != "" else "none")
    lines.append("\nData sets")
    for name, data in found.data.items():
        text = str(data["folder"]) if data["state"] == "found" else f"{data['folder']}; get it from {data['source']}"
        row(str(data["state"]), name, text + (f" (lacks {', '.join(data['lacks'])})" if data["lacks"] else ""))
    lines.append("")
    lines += [f"problem: {problem}" for problem in found.problems]
    lines += [f"next:    {command}" for command in found.next]
    return "\n".join(lines if found.problems else [*lines, "Everything that is required is here."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tools/check_env.py``; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--data-root", default="data", help="folder that holds the data sets (default: data)")
    args = parser.parse_args(argv)
    found = collect_environment(args.data_root)
    print(found.as_json() if args.json else describe(found))
    return 1 if found.problems else 0
