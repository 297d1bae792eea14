"""What only a process that has yet to import anything shows, all in one, as each such import takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..helpers.tools import ROOT, environment

#: A compiled module is there, a detector's head was imported before, and transformers is newer than mmpretrain knows.
CODE = """
import json, sys
from importlib.util import spec_from_file_location
from types import ModuleType
class Finder:
    def find_spec(self, name, path=None, target=None):
        return spec_from_file_location(name, sys.argv[1]) if name == "mmcv._ext" else None
sys.meta_path.insert(0, Finder())
early = ModuleType("mmdet.models.dense_heads.ssd_head")
early.SSDHead = type("SSDHead", (), {})
sys.modules[early.__name__] = early
import kd_mm, mmpretrain
from mmcv.ops.nms import ext_module
report = kd_mm.ops.report()
mmpretrain.get_model("resnet18_8xb32_in1k")
found = {
    "compiled": [ext_module.nms(), report.compiled, report.source, report.operators],
    "early": early.SSDHead().loss_cls,
    "multimodal": str(mmpretrain.registry.MODELS.get("OFA")),
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd") / "_ext.py"


@pytest.fixture(scope="module")
def found(extension: Path) -> dict[str, Any]:
    """What the process found; transformers is found as an installed package is, but has nothing in it."""
    extension.write_text("def nms():\n    return 'compiled'\n\n\ndef __getattr__(name):\n    return nms\n")
    folder = extension.parent
    for file in ("transformers/__init__.py", "transformers/pytorch_utils.py", "transformers-5.0.0.dist-info/METADATA"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("Name: transformers\nVersion: 5.0.0\n" if "METADATA" in file else "")
    command = [sys.executable, "-c", CODE, str(extension)]
    env = environment(folder, ROOT)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *before, last = done.stdout.splitlines()
    return {"printed": before, **json.loads(last)}


def test_an_import_prints_nothing(found: dict[str, Any]) -> None:
    assert found["printed"] == []


def test_a_compiled_module_is_left_alone(found: dict[str, Any], extension: Path) -> None:
    assert found["compiled"] == ["compiled", True, str(extension), []]


def test_heads_that_were_imported_before_are_patched_too(found: dict[str, Any]) -> None:
    assert found["early"] is None


def test_transformers_that_is_too_new_for_mmpretrain_stops_nothing(found: dict[str, Any]) -> None:
    assert "ask_install" in found["multimodal"]  # the placeholder that says what to install
