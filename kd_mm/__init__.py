"""kd_mm: knowledge distillation for any OpenMMLab config.

Importing it installs import hooks alone. The engine's registries import the components when a config names one, and
torch and upstream's packages are imported when they are used.
"""

import importlib
from typing import Any

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


_FUNCTIONS = ("distill", "evaluate", "export", "train")


def __getattr__(name: str) -> Any:
    """Import a subpackage, or a function of :mod:`kd_mm.api`, when it is used as an attribute."""
    if name in _FUNCTIONS:
        return vars(importlib.import_module("kd_mm.api"))[name]
    if name in __all__:
        return importlib.import_module(f"kd_mm.{name}")
    raise AttributeError(f"module 'kd_mm' has no attribute {name!r}")
