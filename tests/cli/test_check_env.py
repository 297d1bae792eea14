"""The environment check: ranges, data sets, and its advice where packages are missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kd_mm.cli.check_env import DATA_SETS, collect_environment
from kd_mm.registry import DATASETS

from ..helpers.tools import Tools, environment

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "check_env.py"


def test_without_any_package_it_says_what_is_missing_and_what_to_do(tmp_path: Path) -> None:
    # -I and -S: the standard library alone, as on a machine where nothing was installed yet.
    command = [sys.executable, "-I", "-S", str(TOOL)]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "problem: kd-mm or one of its requirements is not installed" in done.stdout.splitlines()
    assert f"next:    pip install -e {ROOT}" in done.stdout.splitlines()
    assert "Traceback" not in done.stdout + done.stderr


def test_the_installed_environment_as_json(tools: Tools, tmp_path: Path) -> None:
    (tmp_path / "data" / "cifar100" / "cifar-100-python").mkdir(parents=True)
    for name in ("train", "test", "meta"):
        (tmp_path / "data" / "cifar100" / "cifar-100-python" / name).touch()
    done = tools.run("check_env", "--json", cwd=tmp_path)
    found = json.loads(done.out)
    assert (done.status, found["problems"], found["next"]) == (0, [], [])
    assert found["packages"]["torch"]["state"] == "ok"
    assert found["packages"]["torch"]["needs"].startswith(">=")
    assert set(found["imports"].values()) == {""}
    assert found["operators"]["kind"] in ("compiled", "stand-ins")
    assert found["system"]["CUDA available"] in ("True", "False")
    assert found["data"]["CIFAR-100"]["state"] == "found"
    assert found["data"]["CIFAR-10"]["state"] == "missing"


def test_packages_that_are_missing_or_out_of_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["numpy (<100,>=99)", "torch[extra]>=2.4", "rich", "no-such-package>=1", "no-onnx; extra == 'onnx'"]
    info = tmp_path / "kd_mm-9.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", "Name: kd-mm", "Version: 9", "Requires-Python: >=3.10"]
    (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {line}" for line in needs)]) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = collect_environment(tmp_path / "data")
    states = {name: package["state"] for name, package in found.packages.items()}
    assert states["numpy"] == "out of range"
    assert states["torch"] == states["rich"] == "ok"
    assert states["no-such-package"] == states["no-onnx"] == "missing"
    assert [problem.split(" ", 1)[0] for problem in found.problems] == ["numpy", "no-such-package"]
    assert found.problems[0].endswith("is outside of <100,>=99")
    assert found.next == ['pip install --upgrade "numpy<100,>=99" "no-such-package>=1"']


def test_an_incomplete_data_set_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "VOCdevkit" / "VOC2007" / "Annotations").mkdir(parents=True)
    (tmp_path / "Market-1501-v15.09.15" / "query").mkdir(parents=True)
    data = collect_environment(tmp_path).data
    assert data["Pascal VOC 2007"]["state"] == data["Market-1501"]["state"] == "incomplete"
    assert data["Pascal VOC 2007"]["lacks"] == ["ImageSets/Main/", "JPEGImages/"]
    assert data["Market-1501"]["lacks"] == ["bounding_box_train/", "bounding_box_test/"]
    assert data["Pascal VOC 2012"]["state"] == "missing"


def test_the_data_sets_look_for_the_same_files(tmp_path: Path) -> None:
    for name, dataset in (
        ("CIFAR-10", {"type": "kd_mm.CIFAR10", "data_root": "cifar10"}),
        ("CIFAR-100", {"type": "kd_mm.CIFAR100", "data_root": "cifar100"}),
        ("CUB-200-2011", {"type": "kd_mm.CUB", "data_root": "CUB_200_2011"}),
        ("ImageNet-1k", {"type": "kd_mm.ImageNet", "data_root": "imagenet", "split": "val"}),
        ("Tiny ImageNet", {"type": "kd_mm.TinyImageNet", "data_root": "tiny-imagenet-200", "split": "val"}),
    ):
        layout = DATA_SETS[name]
        with pytest.raises(FileNotFoundError) as caught:
            DATASETS.build({**dataset, "data_root": str(tmp_path / dataset["data_root"]), "pipeline": []})
        message = str(caught.value)
        assert f"looked in {tmp_path / layout.folders[0]} " in message
        assert layout.source.split()[0] in message
        looked_for = message.split(" for ")[1].split(", but ")[0].split(", ")
        assert set(looked_for) <= set(layout.expected)
