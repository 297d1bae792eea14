"""What the engine lacks."""

from kd_mm.engine.bf16 import Bf16OptimWrapper

__all__ = ["Bf16OptimWrapper"]
