"""The module that stands for `mmcv._ext` where mmcv was installed without compiled operators."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

import torchvision  # registers torch.ops.torchvision

from kd_mm.ops import (
    attention,
    bbox_overlaps,
    carafe,
    deform_conv,
    deform_roi_pool,
    focal,
    line_nms,
    masked_conv,
    modulated_deform_conv,
    nms,
    roi_align,
    roi_pool,
    sync_bn,
)

NAME = "mmcv._ext"

_SOURCES = (
    attention,
    carafe,
    deform_conv,
    deform_roi_pool,
    focal,
    line_nms,
    masked_conv,
    modulated_deform_conv,
    nms,
    bbox_overlaps,
    roi_align,
    roi_pool,
    sync_bn,
)


def _operators() -> dict[str, Callable[..., Any]]:
    """Public functions of the operator modules by name; without what they import."""
    return {
        name: value
        for source in _SOURCES
        for name, value in vars(source).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == source.__name__
    }


OPERATORS: dict[str, Callable[..., Any]] = _operators()


@dataclass(frozen=True)
class OperatorReport:
    """Where mmcv's operators come from in this process.

    Attributes:
        compiled: Whether `mmcv._ext` is another module than kd_mm's.
        source: File of the compiled module, or the name and version of what backs the stand-ins.
        operators: Names of the stand-in operators; empty where compiled.
        problem: Why a compiled module that is there could not be used; empty otherwise.
    """

    compiled: bool
    source: str
    operators: tuple[str, ...]
    problem: str = ""


def _missing(name: str) -> Callable[..., NoReturn]:
    """Make the function that stands for an operator without a stand-in."""

    def operator(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f"mmcv operator '{name}' needs compiled code, which the installed mmcv lacks, and kd_mm has no stand-in "
            "for it: install an mmcv with compiled operators (a wheel built for your torch, or from source: "
            "MMCV_WITH_OPS=1 pip install --no-binary onedl-mmcv --no-build-isolation --force-reinstall --no-deps "
            "onedl-mmcv)."
        )

    operator.__name__ = operator.__qualname__ = name
    return operator


class StandInExtension(ModuleType):
    """A module whose known operators work and whose other names raise when they are called.

    mmcv checks at import that every operator of a wrapper exists, so an absent one must be there until used.
    """

    problem: str = ""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("_"):
            raise AttributeError(f"module '{NAME}' has no attribute '{name}'")
        return _missing(name)


class _Loader(importlib.abc.Loader):
    """A loader for the module's spec: libraries ask `importlib.util.find_spec` whether the operators exist."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return build(spec)

    def exec_module(self, module: ModuleType) -> None:
        return None


def build(spec: importlib.machinery.ModuleSpec | None = None) -> StandInExtension:
    """Make the stand-in module, not yet registered.

    Args:
        spec: Its import spec; a new one by default.

    Returns:
        The module with every stand-in operator and mmcv's two version functions.
    """
    module = StandInExtension(NAME, "Stand-ins of kd_mm for the compiled operators of mmcv.")
    module.__spec__ = spec or importlib.machinery.ModuleSpec(NAME, _Loader(), origin=__file__)
    module.__loader__ = module.__spec__.loader
    module.__package__ = "mmcv"
    vars(module).update(OPERATORS)
    vars(module).update(
        get_compiler_version=lambda: f"none, kd_mm stand-ins on torchvision {torchvision.__version__}",
        get_compiling_cuda_version=lambda: "not available",
    )
    return module


def _load_compiled() -> tuple[ModuleType | None, str]:
    """The compiled module where it is installed and loads, and the reason where it is installed and does not."""
    try:
        return importlib.import_module(NAME), ""
    except ModuleNotFoundError as error:
        if error.name != NAME:
            raise
        return None, ""
    except (ImportError, OSError) as error:
        return None, f"{type(error).__name__}: {error}".splitlines()[0]


def install() -> OperatorReport:
    """Register the stand-ins as `mmcv._ext` where nothing compiled can be loaded under that name.

    Returns:
        The state of this process.
    """
    compiled, problem = _load_compiled()
    if compiled is not None:
        return report()
    module = build()
    module.problem = problem
    sys.modules[NAME] = module
    vars(importlib.import_module("mmcv"))["_ext"] = module
    if problem:
        from mmengine.logging import print_log

        print_log(
            f"mmcv's compiled operators are installed but do not load ({problem}); kd_mm's stand-ins are used. "
            "Reinstall mmcv for this torch to have them back.",
            logger="current",
            level=30,
        )
    return report()


def report() -> OperatorReport:
    """Report where mmcv's operators come from.

    Returns:
        The state of this process.
    """
    module = sys.modules.get(NAME)
    if not isinstance(module, StandInExtension):
        return OperatorReport(True, str(getattr(module, "__file__", None) or module), ())
    backing = f"torchvision {torchvision.__version__}"
    return OperatorReport(False, backing, tuple(sorted(OPERATORS)), module.problem)
