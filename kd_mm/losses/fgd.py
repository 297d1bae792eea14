"""Objects, background, attention and context of feature maps (FGD)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_mm.losses.base import Loss
from kd_mm.losses.functional import full_precision
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


@MODELS.register_module()
class FGDLoss(Loss):
    """The student's maps follow the teacher's, focally and globally: FGD (Yang et al. 2022, arXiv 2111.11837).

    With the attention of places ``S = H W softmax_hw(mean_c |F| / T)`` and of channels
    ``C = C softmax_c(mean_hw |F| / T)``, per stage and divided by B:

    * focal: ``alpha sum M_fg S_t C_t (F_s - F_t)^2 + beta sum M_bg S_t C_t (F_s - F_t)^2``
    * attention: ``gamma (sum |C_s - C_t| + sum |S_s - S_t|)``
    * global: ``lambda sum (R_s(F_s) - R_t(F_t))^2``, ``R(F) = F + W2 relu(LN(W1 sum_hw softmax_hw(w F) F))``, learned
      for student and teacher alike.

    ``M_fg`` is 1 / (cells of the smallest box over the place), ``M_bg`` is 1 / (cells without a box) elsewhere. A box
    covers the cells ``floor(x1)..ceil(x2)``, ``floor(y1)..ceil(y2)`` of the map, both ends included and its size
    counted before it is cut at the edge, as in the public code. Where the widths differ, F_s goes through a learned 1x1
    convolution with bias first.

    Public code: ``yzd-v/FGD``. It scales boxes by the image without its padding, although the map covers the padding
    too, so boxes are stretched in a batch of unlike images; here they are where the objects are, and the two agree in
    images without padding. Public weights: 1e-3, 5e-4, 1e-3, 5e-6 as defaults of the class; 1e-3, 5e-4, 5e-4, 5e-6 for
    RetinaNet and GFL, 1.6e-3, 8e-4, 8e-4, 8e-6 for FCOS (temperature 0.8) and RepPoints, all on neck levels 1..5; 5e-5,
    2.5e-5, 5e-5, 5e-7 for Faster and Mask R-CNN on levels 1..4.

    Args:
        alpha: Weight of objects.
        beta: Weight of the background.
        gamma: Weight of the attention.
        lambda_: Weight of the global relation.
        temperature: T > 0 of the attention.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: A temperature that is not above 0; on use, maps of different sizes.
    """

    requires = frozenset({"student.features", "student.targets", "teacher.features"})

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
        if temperature <= 0:
            raise ValueError(f"FGDLoss: temperature={temperature} must be above 0")
        self.term_weights = {"objects": alpha, "background": beta, "attention": gamma, "relation": lambda_}
        self.temperature = temperature
        self.blocks = nn.ModuleDict()

    def setup(self, context: Any) -> None:
        """Create the learned parts of each stage that is read, of the measured widths.

        Args:
            context: ``context.pairs`` holds (student stage, teacher stage) by stage, shallow to deep.
        """
        for i in self.stage_numbers(len(context.pairs)):
            ours, theirs = context.pairs[i - 1]
            self.blocks[f"stage{i}"] = _Block(ours.channels, theirs.channels)

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the weighted sum of the four terms of each stage."""
        targets: Any = student.targets
        parts = {}
        for i in self.stage_numbers(max(student.features)):
            terms = self.compare(student.features[i], teacher.features[i], targets.boxes, targets.shape, i)
            parts[f"stage{i}"] = torch.stack([self.term_weights[name] * value for name, value in terms.items()]).sum()
        return parts

    def compare(
        self, student: Tensor, teacher: Tensor, boxes: Sequence[Tensor], shape: tuple[int, int], stage: int = 1
    ) -> dict[str, Tensor]:
        """Return the four unweighted terms of one stage.

        Args:
            student: ``(B, C_s, H, W)``.
            teacher: ``(B, C_t, H, W)``.
            boxes: Per image ``(n, 4)``, x1, y1, x2, y2 in pixels of the padded batch.
            shape: Height and width of the padded batch in pixels.
            stage: Number of the stage, from 1.
        """
        if student.shape[2:] != teacher.shape[2:]:
            raise ValueError(
                f"FGDLoss: stage {stage} has maps of {tuple(student.shape[2:])} (student) and "
                f"{tuple(teacher.shape[2:])} (teacher) cells; pair stages of equal stride, e.g. levels of the necks"
            )
        block: Any = self.blocks[f"stage{stage}"]
        ours, theirs = block.align(full_precision(student)), full_precision(teacher.detach())
        places, channels = attention(ours, self.temperature)
        their_places, their_channels = attention(theirs, self.temperature)
        objects, background = object_masks(boxes, shape, theirs)
        error = (ours - theirs).square() * their_channels[:, :, None, None]
        by_place = error.sum(dim=1) * their_places
        sums = {
            "objects": by_place * objects,
            "background": by_place * background,
            "relation": (block.student(ours) - block.teacher(theirs)).square(),
        }
        terms = {name: term.sum() / len(theirs) for name, term in sums.items()}
        unlike = (channels - their_channels).abs().sum() + (places - their_places).abs().sum()
        return {**terms, "attention": unlike / len(theirs)}


class _Relation(nn.Module):
    """Adds the map's context, a learned weighted mean over places, to every place (a global context block)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.mask = nn.Conv2d(channels, 1, 1)
        self.context = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.LayerNorm([hidden, 1, 1]), nn.ReLU(), nn.Conv2d(hidden, channels, 1)
        )
        nn.init.kaiming_normal_(self.mask.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(self.mask.bias)  # type: ignore[arg-type]
        # The block starts as the identity.
        for parameter in self.context[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, feature: Tensor) -> Tensor:
        share = self.mask(feature).flatten(2).softmax(dim=-1)
        context = torch.matmul(feature.flatten(2), share.transpose(1, 2))
        return feature + self.context(context[..., None])


class _Block(nn.Module):
    """What one stage learns."""

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        same = student_channels == teacher_channels
        self.align = nn.Identity() if same else nn.Conv2d(student_channels, teacher_channels, 1)
        self.student = _Relation(teacher_channels)
        self.teacher = _Relation(teacher_channels)


def attention(feature: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the attention of places ``(B, H, W)``, of mean 1, and of channels ``(B, C)``, of mean 1.

    Args:
        feature: ``(B, C, H, W)``.
        temperature: T > 0, in units of the feature map.
    """
    size = feature.abs()
    batch, channels, height, width = feature.shape
    places = F.softmax(size.mean(dim=1).flatten(1) / temperature, dim=1) * (height * width)
    return places.view(batch, height, width), F.softmax(size.mean(dim=(2, 3)) / temperature, dim=1) * channels


def object_masks(boxes: Sequence[Tensor], shape: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the masks ``(B, H, W)`` of objects and of background; see :class:`FGDLoss`.

    Args:
        boxes: Per image ``(n, 4)``, x1, y1, x2, y2 in pixels of the padded batch.
        shape: Height and width of the padded batch in pixels.
        like: A map ``(B, C, H, W)``.
    """
    height, width = like.shape[2:]
    rows = torch.arange(height, device=like.device)[None, :, None]
    columns = torch.arange(width, device=like.device)[None, None, :]
    scale = like.new_tensor([width / shape[1], height / shape[0]])
    objects = like.new_zeros(len(boxes), height, width)
    for i, image in enumerate(boxes):
        if len(image):
            image = image.to(like)
            left, top = (image[:, :2] * scale).floor().unbind(dim=1)
            right, bottom = (image[:, 2:] * scale).ceil().unbind(dim=1)
            inside = (rows >= top[:, None, None]) & (rows <= bottom[:, None, None])
            inside = inside & (columns >= left[:, None, None]) & (columns <= right[:, None, None])
            density = 1.0 / ((bottom + 1 - top) * (right + 1 - left))
            objects[i] = (inside * density[:, None, None]).amax(dim=0)
    empty = (objects == 0).to(like.dtype)
    return objects, empty / empty.sum(dim=(1, 2), keepdim=True).clamp(min=1)
