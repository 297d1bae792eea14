"""Hooks: what happens around the iterations."""

from kd_mm.hooks.channels_last import ChannelsLastHook
from kd_mm.hooks.distill_hook import DistillHook
from kd_mm.hooks.ema_teacher import EMATeacherHook
from kd_mm.hooks.exact_resume import ExactResumeHook
from kd_mm.hooks.exit_probe import ExitProbeHook
from kd_mm.hooks.teacher_check import TeacherCheckHook

__all__ = [
    "ChannelsLastHook",
    "DistillHook",
    "EMATeacherHook",
    "ExactResumeHook",
    "ExitProbeHook",
    "TeacherCheckHook",
]
