"""What upstream needs to run where mmcv was installed without its compiled operators.

The distributions on the package registry carry no compiled code, and `mmdet` does not import without it. Importing
this package registers stand-ins built on torchvision's operators; a compiled mmcv is left alone. Faults of upstream
itself are fixed in :mod:`kd_mm.ops.upstream_fixes`.
"""

from kd_mm.ops import upstream_fixes
from kd_mm.ops.mmcv_ext import OperatorReport, install, report
from kd_mm.ops.quiet_import import import_quietly

__all__ = ["OperatorReport", "install", "report"]

install()
upstream_fixes.install()
import_quietly("mmpretrain.datasets")
