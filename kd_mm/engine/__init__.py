"""What the engine lacks."""

from kd_mm.engine.atomic_files import AtomicLocalBackend
from kd_mm.engine.bf16 import Bf16OptimWrapper

__all__ = ["AtomicLocalBackend", "Bf16OptimWrapper"]
