"""Registers the stand-ins before a test module imports mmcv.ops, whatever order its imports are sorted in."""

import kd_mm  # noqa: F401
