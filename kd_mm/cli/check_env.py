"""Print what is installed, what is supported, which data sets are there, and what to do next."""

from kd_mm.apis.environment import main

__all__ = ["main"]
