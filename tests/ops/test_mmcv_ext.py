"""Registration of the stand-ins as `mmcv._ext`."""

import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import mmcv
import pytest
import torch
from mmcv.ops import box_iou_rotated, get_compiler_version, get_compiling_cuda_version
from mmcv.utils import collect_env

from kd_mm import ops


def test_the_module_is_reported_found_by_its_spec_and_installed_once() -> None:
    report = ops.report()
    assert not report.compiled
    assert "torchvision" in report.source
    known = {"nms", "softnms", "deform_roi_pool_backward", "line_nms_forward", "modulated_deform_conv_backward"}
    assert known <= set(report.operators)
    assert "torchvision" in get_compiler_version()
    assert get_compiling_cuda_version() == "not available"
    assert collect_env()["MMCV Compiler"] == get_compiler_version()
    spec = importlib.util.find_spec("mmcv._ext")
    assert spec is not None
    assert spec.loader is not None
    before = sys.modules["mmcv._ext"]
    assert ops.install() == ops.report()
    assert sys.modules["mmcv._ext"] is before


def test_operator_without_stand_in_raises_one_line() -> None:
    boxes = torch.tensor([[1.0, 1, 2, 2, 0]])
    with pytest.raises(NotImplementedError) as caught:
        box_iou_rotated(boxes, boxes)
    message = str(caught.value)
    assert "'box_iou_rotated'" in message
    assert "install an mmcv with compiled operators" in message
    assert "\n" not in message


class Finder(importlib.abc.MetaPathFinder):
    """Finds `mmcv._ext` in a given file, as if it were installed."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(name, self.file) if name == "mmcv._ext" else None


def test_module_registered_before_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("mmcv._ext")
    monkeypatch.setitem(sys.modules, "mmcv._ext", module)
    assert ops.install().compiled
    assert sys.modules["mmcv._ext"] is module


@pytest.mark.parametrize("broken", [True, False])
def test_stand_ins_are_registered_where_nothing_compiled_loads(
    broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    monkeypatch.delattr(mmcv, "_ext")
    if broken:
        file = tmp_path / "_ext.py"
        file.write_text("raise ImportError('undefined symbol: _ZN2at')")
        monkeypatch.setattr(sys, "meta_path", [Finder(file), *sys.meta_path])
    report = ops.install()
    assert not report.compiled
    assert report.problem == ("ImportError: undefined symbol: _ZN2at" if broken else "")
    assert mmcv._ext is sys.modules["mmcv._ext"]
    assert mmcv._ext.nms(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0.5]), 0.5, 0).tolist() == [0]
    assert report == ops.report()
