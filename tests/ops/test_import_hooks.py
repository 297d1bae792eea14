"""Import hooks; a new interpreter shows their effect, one for all tests, as its imports take seconds."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kd_mm.ops.import_hooks import quiet

from ..helpers.tools import ROOT, environment

#: A compiled module exists, a detector's head was imported before, and transformers is newer than mmpretrain supports.
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
print(json.dumps({
    "compiled": [ext_module.nms(), report.compiled, report.source, report.operators],
    "early": early.SSDHead().loss_cls,
    "multimodal": str(mmpretrain.registry.MODELS.get("OFA")),
}))
"""


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "_ext.py"
    path.write_text("def nms():\n    return 'compiled'\n\n\ndef __getattr__(name):\n    return nms\n")
    return path


@pytest.fixture(scope="module")
def result(extension: Path) -> dict[str, Any]:
    """Output of the interpreter; transformers is installed there, but empty."""
    folder = extension.parent
    for file in ("transformers/__init__.py", "transformers/pytorch_utils.py", "transformers-5.0.0.dist-info/METADATA"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("Name: transformers\nVersion: 5.0.0\n" if "METADATA" in file else "")
    command, env = [sys.executable, "-c", CODE, str(extension)], environment(folder, ROOT)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *before, last = done.stdout.splitlines()
    return {"printed": before, **json.loads(last)}


def test_a_new_interpreter_prints_nothing_and_has_every_fix(result: dict[str, Any], extension: Path) -> None:
    assert result["printed"] == []
    assert result["compiled"] == ["compiled", True, str(extension), []]
    assert result["early"] is None
    assert "ask_install" in result["multimodal"]


def test_output_of_an_import_goes_to_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prints_on_import.py").write_text("print('Could not import OneDL')\nprint('something else')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with quiet():
        importlib.import_module("prints_on_import")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "something else\n")
