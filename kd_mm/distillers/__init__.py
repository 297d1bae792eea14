"""The Distiller and its teachers."""

from kd_mm.distillers.distiller import Distiller, find_distiller
from kd_mm.distillers.ema_teacher import EMATeacher
from kd_mm.distillers.teacher import Teacher

__all__ = ["Distiller", "EMATeacher", "Teacher", "find_distiller"]
