"""A distiller without the preparation of its teachers: what a training would have prepared is there, untrained."""

from __future__ import annotations

from kd_mm.distillers import Distiller
from kd_mm.losses import GPACAttentionLoss
from kd_mm.losses.mag import CodeReader, Codes

#: Training samples of a loss that remembers each one, as many as CIFAR has.
SAMPLES = 50_000


def go_unprepared(distiller: Distiller) -> None:
    """Let every loss run, at the cost of a training: exits and codes untrained, probes that rate all teachers alike."""
    for teacher in distiller.teachers.values():
        teacher.exits_ready = True
    for loss in distiller.losses.values():
        loss.expect_samples(SAMPLES)
        if isinstance(loss, GPACAttentionLoss) and loss.needs_probes:
            alike = dict.fromkeys(loss.stage_numbers(distiller.num_stages), 1.0)
            loss.choose(dict.fromkeys(loss.teacher_names, alike), {})
        if isinstance(loss, CodeReader):
            name = loss.teacher or ""
            codes = Codes(loss.width, loss.code_dims, distiller.num_classes[name]).requires_grad_(False).eval()
            loss.take_codes(codes.to(next(distiller.teachers[name].model.parameters()).device))
