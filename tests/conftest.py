"""Imports kd_mm before a test module imports anything of upstream, which it mends."""

import kd_mm  # noqa: F401
