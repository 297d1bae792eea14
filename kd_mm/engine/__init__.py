"""What the engine lacks."""

from kd_mm.engine.bf16 import Bf16OptimWrapper
from kd_mm.engine.device_loader import DeviceLoader
from kd_mm.utils.atomic_files import AtomicLocalBackend

__all__ = ["AtomicLocalBackend", "Bf16OptimWrapper", "DeviceLoader"]
