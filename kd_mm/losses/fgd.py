"""Focal and global distillation of feature maps (FGD)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ContextBlock
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from kd_mm.losses.base import Loss, LossContext
from kd_mm.losses.functional import full_precision
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


@MODELS.register_module()
class FGDLoss(Loss):
    """Compare maps by objects, background, attention and global relation: FGD (Yang et al. 2022, arXiv 2111.11837).

    With the attention of positions ``S = H W softmax_hw(mean_c |F| / T)`` and of channels
    ``C = C softmax_c(mean_hw |F| / T)``, per stage and divided by B:

    * focal: ``alpha sum M_fg S_t C_t (F_s - F_t)^2 + beta sum M_bg S_t C_t (F_s - F_t)^2``
    * attention: ``gamma (sum |C_s - C_t| + sum |S_s - S_t|)``
    * global: ``lambda sum (R_s(F_s) - R_t(F_t))^2``, ``R(F) = F + W2 relu(LN(W1 sum_hw softmax_hw(w F) F))``, learned
      for student and teacher alike.

    ``M_fg`` is 1 / (cells of the smallest box over the cell), ``M_bg`` is 1 / (cells without a box) elsewhere. A box
    covers the cells ``floor(x1)..ceil(x2)``, ``floor(y1)..ceil(y2)`` of the map, both ends included and its size
    counted before it is cut at the edge, as in the public code. Where the widths differ, F_s goes through a learned 1x1
    convolution with bias first.

    Public code: ``yzd-v/FGD``. It scales boxes by the image without its padding, although the map covers the padding
    too; here they are where the objects are, and the two agree in images without padding.

    Args:
        alpha: Weight of objects. Default: 1e-3.
        beta: Weight of the background. Default: 5e-4.
        gamma: Weight of the attention. Default: 1e-3.
        lambda_: Weight of the global relation. Default: 5e-6.
        temperature: T > 0 of the attention. Default: 0.5.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: On use, for maps of different sizes.
    """

    requires = frozenset({"student.features", "student.targets", "teacher.features"})
    tasks = frozenset({"detection"})
    instead = "its masks are made of the boxes of objects; take another loss on maps (recipes at, fitnets)"

    def __init__(
        self,
        alpha: float = 1e-3,
        beta: float = 5e-4,
        gamma: float = 1e-3,
        lambda_: float = 5e-6,
        temperature: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.term_weights = {"objects": alpha, "background": beta, "attention": gamma, "relation": lambda_}
        self.temperature = temperature
        self.blocks = nn.ModuleDict()

    def setup(self, context: LossContext) -> None:
        for i in self.stage_numbers(len(context.pairs)):
            width, out = (stage.channels for stage in context.pairs[i - 1])
            align = nn.Identity() if width == out else nn.Conv2d(width, out, 1)
            parts = {"align": align, "student": ContextBlock(out, 0.5), "teacher": ContextBlock(out, 0.5)}
            self.blocks[f"stage{i}"] = nn.ModuleDict(parts)

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the weighted sum of the four terms of each stage."""
        values = {}
        for i in self.stage_numbers(max(student.features)):
            terms = self._compare(student.features[i], teacher.features[i], student.targets, i)
            values[f"stage{i}"] = torch.stack([self.term_weights[name] * value for name, value in terms.items()]).sum()
        return values

    def _compare(self, student: Tensor, teacher: Tensor, targets: Any, stage: int) -> dict[str, Tensor]:
        if student.shape[2:] != teacher.shape[2:]:
            raise ValueError(
                f"FGDLoss: stage {stage} has maps of {tuple(student.shape[2:])} (student) and "
                f"{tuple(teacher.shape[2:])} (teacher) cells; pair stages of equal stride, e.g. levels of the necks"
            )
        block: Any = self.blocks[f"stage{stage}"]
        student, teacher = block.align(full_precision(student)), full_precision(teacher.detach())
        positions, channels = attention(student, self.temperature)
        target_positions, target_channels = attention(teacher, self.temperature)
        objects, background = object_masks(targets.boxes, targets.shape, teacher)
        error = (student - teacher).square() * target_channels[:, :, None, None]
        error = error.sum(dim=1) * target_positions
        sums = {
            "objects": (error * objects).sum(),
            "background": (error * background).sum(),
            "relation": (block.student(student) - block.teacher(teacher)).square().sum(),
            "attention": (channels - target_channels).abs().sum() + (positions - target_positions).abs().sum(),
        }
        return {name: value / len(teacher) for name, value in sums.items()}


def attention(feature: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the attention of positions ``(B, H, W)`` and of channels ``(B, C)``, each of mean 1.

    Args:
        feature: ``(B, C, H, W)``.
        temperature: T > 0, in units of the feature map.
    """
    size = feature.abs()
    batch, channels, height, width = feature.shape
    positions = F.softmax(size.mean(dim=1).flatten(1) / temperature, dim=1) * (height * width)
    return positions.view(batch, height, width), F.softmax(size.mean(dim=(2, 3)) / temperature, dim=1) * channels


def object_masks(boxes: Sequence[Tensor], shape: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the masks ``(B, H, W)`` of objects and of background; see :class:`FGDLoss`.

    Args:
        boxes: Per image ``(n, 4)``, x1, y1, x2, y2 in pixels of the padded batch.
        shape: Height and width of the padded batch in pixels.
        like: A map ``(B, C, H, W)``.
    """
    height, width = like.shape[2:]
    # All images at once, each with as many rows as the fullest has boxes and one more, so that there is one.
    corners = F.pad(pad_sequence(list(boxes), batch_first=True).to(like), (0, 0, 0, 1))
    counts = torch.tensor([len(image) for image in boxes], device=like.device)
    exists = torch.arange(corners.shape[1], device=like.device) < counts[:, None]
    scale = like.new_tensor([width / shape[1], height / shape[0]])
    left, top = (corners[..., :2] * scale).floor().unbind(dim=-1)
    right, bottom = (corners[..., 2:] * scale).ceil().unbind(dim=-1)
    density = exists / ((bottom + 1 - top) * (right + 1 - left))
    rows, columns = torch.arange(height, device=like.device), torch.arange(width, device=like.device)
    in_rows = (rows >= top[..., None]) & (rows <= bottom[..., None])
    in_columns = (columns >= left[..., None]) & (columns <= right[..., None])
    inside = in_rows[..., :, None] & in_columns[..., None, :]
    objects = (inside * density[..., None, None]).amax(dim=1)
    empty = (objects == 0).to(like.dtype)
    return objects, empty / empty.sum(dim=(1, 2), keepdim=True).clamp(min=1)
