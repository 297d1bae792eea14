"""kd_mm: knowledge distillation for any OpenMMLab config. Importing it registers every component."""

from mmengine.config.utils import MODULE2PACKAGE

from kd_mm import ops  # stand-in operators must exist before anything imports mmdet

from kd_mm import datasets, distillers, engine, evaluation, hooks, losses, models, preparation, stages, tasks, utils  # isort: skip

__version__ = "0.1.0"
__all__ = [
    "ops",
    "datasets",
    "distillers",
    "engine",
    "evaluation",
    "hooks",
    "losses",
    "models",
    "preparation",
    "stages",
    "tasks",
    "utils",
]

# Lets configs say `_base_ = ['kd_mm::...']`.
MODULE2PACKAGE.setdefault("kd_mm", "kd_mm")
