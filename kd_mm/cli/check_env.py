"""The command ``kd-mm doctor``: what is installed, what is supported, and what to do next."""

from kd_mm.apis.environment import main

__all__ = ["main"]
