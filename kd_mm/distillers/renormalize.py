"""One normalisation for student, teachers and data: a teacher trained with another one gets its input re-normalised."""

from typing import Any

import torch
from torch import Tensor, nn


class Renormalize:
    """The affine map from the student's normalised batch to the teacher's, exact up to rounding.

    With student ``x_s = (x - m_s) / s_s`` and teacher ``x_t = (x - m_t) / s_t`` of the same image ``x`` it is
    ``x_t = x_s * s_s / s_t + (m_s - m_t) / s_t``, after swapping RGB and BGR where the two orders differ.

    Args:
        student: The student; its data preprocessor (mmpretrain's or mmdet's) gives mean, std and channel order.
        teacher: The teacher, likewise.
        channels: Channels that the teacher takes. The one of a student of grey images is repeated.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, channels: int) -> None:
        self.channels = channels
        mean_s, std_s, swap_s = _normalization(student.data_preprocessor)
        mean_t, std_t, swap_t = _normalization(teacher.data_preprocessor)
        self.swap = swap_s != swap_t
        if self.swap:
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        self.scale = (std_s / std_t).view(-1, 1, 1)
        self.shift = ((mean_s - mean_t) / std_t).view(-1, 1, 1)
        self.identity = not self.swap and bool((self.scale == 1).all()) and bool((self.shift == 0).all())

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the teacher's view ``(B, C, H, W)`` of a batch that the student's preprocessor normalised."""
        if inputs.shape[1] != self.channels:
            inputs = inputs.expand(-1, self.channels, -1, -1)
        if self.identity:
            return inputs
        if self.swap:
            inputs = inputs.flip(1)
        if self.scale.device != inputs.device:
            self.scale, self.shift = self.scale.to(inputs.device), self.shift.to(inputs.device)
        return inputs * self.scale.to(inputs.dtype) + self.shift.to(inputs.dtype)


def _normalization(preprocessor: Any) -> tuple[Tensor, Tensor, bool]:
    """Return mean ``(C,)``, std ``(C,)`` and whether the channels are swapped, of a data preprocessor."""
    options = vars(preprocessor)
    mean, std = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    if options.get("_enable_normalize"):
        mean, std = (value.detach().double().cpu().flatten() for value in (preprocessor.mean, preprocessor.std))
    return mean, std, bool(options.get("to_rgb") or options.get("_channel_conversion"))
