"""kd_mm: knowledge distillation for any OpenMMLab config.

Importing it installs import hooks alone. The engine's registries import the components when a config names one, and
torch and upstream's packages are imported when they are used.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from kd_mm import ops  # its import hooks have to be there before anything imports mmdet

__version__ = "0.1.0"
__all__ = [
    "datasets",
    "distillers",
    "engine",
    "evaluation",
    "hooks",
    "losses",
    "models",
    "ops",
    "preparation",
    "registry",
    "stages",
    "tasks",
    "utils",
]

# Lets configs say `_base_ = ['kd_mm::...']`.
ops.after_import("mmengine.config.utils", lambda module: module.MODULE2PACKAGE.setdefault("kd_mm", "kd_mm"))


def __getattr__(name: str) -> ModuleType:
    """Import a subpackage when it is used as an attribute."""
    if name in __all__:
        return importlib.import_module(f"kd_mm.{name}")
    raise AttributeError(f"module 'kd_mm' has no attribute {name!r}")
