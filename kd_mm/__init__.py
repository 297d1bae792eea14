"""kd_mm: knowledge distillation for any OpenMMLab config. Importing it registers every component."""

from kd_mm import compat  # noqa: F401  isort: skip - stand-in operators must exist before mmdet is imported

__version__ = "0.1.0"
