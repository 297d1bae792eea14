"""Hooks: what happens around the iterations."""

from kd_mm.hooks.channels_last import ChannelsLastHook as ChannelsLastHook
from kd_mm.hooks.distill_hook import DistillHook as DistillHook
from kd_mm.hooks.ema_teacher import EMATeacherHook as EMATeacherHook
from kd_mm.hooks.exact_resume import ExactResumeHook as ExactResumeHook
from kd_mm.hooks.exit_probe import ExitProbeHook as ExitProbeHook
from kd_mm.hooks.teacher_check import TeacherCheckHook as TeacherCheckHook
