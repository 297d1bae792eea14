"""What upstream needs to run where mmcv was installed without its compiled operators.

The distributions on the package registry carry no compiled code, and `mmdet` does not import without it. Importing
this package registers stand-ins built on torchvision's operators; a compiled mmcv is left alone. Faults of upstream
itself are mended in :mod:`kd_mm.compat.mends`.
"""

from kd_mm.compat import mends
from kd_mm.compat.chatter import import_quietly
from kd_mm.compat.extension import OperatorReport, install, report

__all__ = ["OperatorReport", "install", "report"]

install()
mends.install()
import_quietly("mmpretrain.datasets")
