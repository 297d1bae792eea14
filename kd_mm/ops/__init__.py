"""What upstream needs to run where mmcv was installed without its compiled operators.

The distributions on the package registry carry no compiled code, and `mmdet` does not import without it. Importing
this package installs import hooks: before `mmcv.ops` is imported, stand-ins built on torchvision's operators are
registered, where nothing compiled can be loaded; and faults of upstream itself are fixed after the import of the module
that has them (:mod:`kd_mm.ops.import_hooks`). Nothing of upstream is imported for it, and neither is torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kd_mm.ops.import_hooks import after_import, install_hooks

if TYPE_CHECKING:
    from kd_mm.ops.mmcv_ext import OperatorReport

__all__ = ["after_import", "install", "report"]


def install() -> OperatorReport:
    """Register the stand-ins where nothing compiled can be loaded; returns what serves as `mmcv._ext` then."""
    from kd_mm.ops import mmcv_ext

    return mmcv_ext.install()


def report() -> OperatorReport:
    """Return where mmcv's operators come from."""
    return install()


install_hooks()
