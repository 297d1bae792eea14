"""Student-friendly knowledge distillation: the teacher's logits are softened and simplified for the student."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from kd_mm.losses.base import choice
from kd_mm.losses.functional import class_divergence, full_precision
from kd_mm.losses.observation import Observation
from kd_mm.losses.schedules import Progress
from kd_mm.registry import MODELS

_START = Progress()


class CollapseError(RuntimeError):
    """The simplified logits have left the teacher's."""


class Simplified(NamedTuple):
    """Simplified logits by name, scalars for the log, and a weighted term that trains the simplifier alone."""

    logits: dict[str, Tensor]
    terms: dict[str, Tensor]
    penalty: Tensor | None = None


class SampleAttention(nn.Module):
    """Each sample is a token, its K logits the embedding: ``softmax((x W_q)(x W_k)^T / sqrt(d)) (x W_v) W_o``.

    Args:
        width: K.
        dim: d, the width of queries, keys and values.
        zero_init_out: Whether ``W_o`` starts at 0, so that the layer gives 0 at first.
    """

    def __init__(self, width: int, dim: int, zero_init_out: bool = True) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, dim, bias=False) for _ in range(3))
        self.out = nn.Linear(dim, width, bias=False)
        if zero_init_out:
            nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``(..., T, K)`` for ``x`` ``(..., T, K)``; ``mask`` ``(T, T)`` is where a token may attend."""
        return self.out(attend(self.q(x), self.k(x), self.v(x), mask))


class ClassAttention(nn.Module):
    """Each class is a token ``x_k u + e_k`` with learned ``u`` and ``e_k``; a sample's classes attend to each other.

    Args:
        width: K.
        dim: d.
        zero_init_out: Whether ``W_o`` (d to 1) starts at 0, so that the layer gives 0 at first.
    """

    def __init__(self, width: int, dim: int, zero_init_out: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(dim) / math.sqrt(dim))
        self.classes = nn.Parameter(torch.randn(width, dim) / math.sqrt(dim))
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.out = nn.Linear(dim, 1, bias=False)
        if zero_init_out:
            nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``(..., T, K)`` for ``x`` ``(..., T, K)``; samples do not attend to each other."""
        tokens = x[..., None] * self.scale + self.classes
        return self.out(attend(self.q(tokens), self.k(tokens), self.v(tokens))).squeeze(-1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the attention of ``q`` ``(..., T, d)`` over ``k`` and ``v``; every row of ``mask`` ``(T, T)`` allows some.

    Written out: PyTorch's fused form has no deterministic backward pass on every device.
    """
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1) @ v


@MODELS.register_module()
class LearningSimplifier(nn.Module):
    """Soften a teacher's logits, then pass them through a small trained attention: student-friendly distillation.

    Yuan, Lang, Quan (Knowledge-Based Systems 296, 2024, arXiv 2305.10893). Only the abstract was available: **every
    formula and default here is our reading.** With the teacher's logits z, ``x`` and ``W`` without biases::

        z^ = z / tau                          softening
        x  = z^ - mean_k(z^)                  centring
        A  = softmax((x W_q)(x W_k)^T / sqrt(d))    over the samples of the batch
        z~ = x + A (x W_v) W_o                simplified, already at temperature tau

    Losses get ``tau z~`` (plus the mean that centring removed, which only sigmoids read), so a loss at temperature tau
    compares with ``softmax(z~)``. The distillation loss alone is smallest for a target that ignores the teacher; the
    log has ``agreement``, the percentage of samples whose largest class is the teacher's, and ``change``,
    ``KL(softmax(z^) || softmax(z~))``. The network's own logits and each stage's have a simplifier of their own. On
    dense heads the ``max_tokens`` locations with the highest class score of each image are simplified, the others stay;
    regions attend to those of their own image only.

    Args:
        temperature: tau, of the softening; give the losses the same one. Default: 4.
        tokens: ``"batch"`` (a sample is a token, its K logits the embedding) or ``"class"`` (a class is a token with a
            learned embedding; memory B K K). Default: ``"batch"``.
        dim: d, the width of the attention. Default: ``min(K, 256)``.
        layers: Attention layers, one after the other. Default: 1.
        residual: Whether x is added; without it training collapses easily. Default: True.
        zero_init_out: Whether ``W_o`` starts at 0, that is, at the teacher's own logits. Default: True.
        anchor: ``"none"``, ``"ce"`` (cross-entropy of ``tau z~`` with the label) or ``"kl"`` (of ``z~`` with ``z^``).
            Default: ``"none"``.
        anchor_weight: Weight of the anchor, which trains the simplifier alone. Default: 0.1.
        start_epoch: Zero-based epoch before which logits stay as they are. Default: 0.
        gradient_scale: Factor of the gradients of the attention, above 0; under SGD a factor of its learning rate
            (Adam needs ``paramwise_cfg.custom_keys`` of ``distill.transform``). Default: 1.
        max_tokens: Locations an image on dense heads. Default: 512.
        min_agreement: Percentage of agreement under which ``guard`` acts. Default: 50.
        guard: ``"warn"``, ``"stop"`` (a :class:`CollapseError`) or ``"off"``. Default: ``"warn"``.
        losses: Names of the losses that read the adapted logits. Default: all that read a teacher's logits.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        tokens: str = "batch",
        dim: int | None = None,
        layers: int = 1,
        residual: bool = True,
        zero_init_out: bool = True,
        anchor: str = "none",
        anchor_weight: float = 0.1,
        start_epoch: int = 0,
        gradient_scale: float = 1.0,
        max_tokens: int = 512,
        min_agreement: float = 50.0,
        guard: str = "warn",
        losses: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        positive = {"temperature": temperature, "gradient_scale": gradient_scale, "layers": layers, "dim": dim or 1}
        for name, value in positive.items():
            if value <= 0:
                raise ValueError(f"LearningSimplifier: {name}={value} must be above 0")
        self.temperature, self.residual, self.start_epoch = temperature, residual, start_epoch
        self.tokens = choice("tokens", tokens, ("batch", "class"))
        self.dim, self.layers, self.zero_init_out = dim, layers, zero_init_out
        self.anchor, self.anchor_weight = choice("anchor", anchor, ("none", "ce", "kl")), anchor_weight
        self.max_tokens, self.min_agreement, self.gradient_scale = max_tokens, min_agreement, gradient_scale
        self.guard = choice("guard", guard, ("warn", "stop", "off"))
        self.losses = None if losses is None else tuple(losses)
        #: Names of the logits that are adapted: the network's own are ``final``, those of stage i ``stage<i>``.
        self.names: frozenset[str] = frozenset()
        self.last = 0
        self.simplifiers = nn.ModuleDict()
        self.sigmoids: frozenset[str] = frozenset()
        self._warned: set[str] = set()

    @property
    def needs_targets(self) -> bool:
        """Whether labels are read, for the anchor."""
        return self.anchor == "ce" and self.anchor_weight != 0

    def serves(self, loss: str) -> bool:
        """Return whether the loss of this name reads the adapted logits."""
        return self.losses is None or loss in self.losses

    def setup(self, widths: Mapping[str, int], sigmoids: frozenset[str], labelled: bool, last: int = 0) -> None:
        """Build the attention of each set of logits.

        Args:
            widths: Number of classes by the name of the logits: ``final``, ``stage<i>``.
            sigmoids: Names of the logits whose classes are independent sigmoids.
            labelled: Whether there is a class label for each row of logits (not so in detection).
            last: The stage whose stage logits are the network's own; 0: none.

        Raises:
            ValueError: ``anchor="ce"`` without labels.
        """
        if self.needs_targets and not labelled:
            raise ValueError("LearningSimplifier: anchor='ce' needs one label for each row of logits; use anchor='kl'")
        self.names, self.last, self.sigmoids = frozenset(widths), last, sigmoids
        kind = SampleAttention if self.tokens == "batch" else ClassAttention
        for name, width in sorted(widths.items()):
            layers = [kind(width, self.dim or min(width, 256), self.zero_init_out) for _ in range(self.layers)]
            self.simplifiers[name] = nn.ModuleList(layers)
        if self.gradient_scale != 1.0:
            for parameter in self.parameters():
                parameter.register_hook(lambda gradient: gradient * self.gradient_scale)

    def adapt(
        self, teacher: Observation, progress: Progress, targets: Any = None, images: Mapping[str, Tensor] | None = None
    ) -> tuple[Observation, dict[str, Tensor], Tensor | None]:
        """Return a teacher's observation with simplified logits, and the terms and penalty of :meth:`forward`.

        Args:
            teacher: Of the teacher; its logits are constants.
            progress: Where the run stands.
            targets: Class indices ``(B,)`` or soft labels ``(B, K)``, where :attr:`needs_targets`.
            images: Image index ``(R,)`` of each row, by the name of logits whose rows are regions of images.
        """
        logits = {f"stage{i}": one for i, one in teacher.stage_logits.items()} | {"final": teacher.logits}
        logits = {name: one for name, one in logits.items() if name in self.names}
        with torch.autocast(next(iter(logits.values())).device.type, enabled=False):
            changed, terms, penalty = self(logits, progress, targets, images)
        stage_logits = {
            i: changed.get("final" if i == self.last else f"stage{i}", one) for i, one in teacher.stage_logits.items()
        }
        final = changed.get("final", teacher.logits)
        return replace(teacher, stage_logits=stage_logits, logits=final), terms, penalty

    def forward(
        self,
        logits_by_name: Mapping[str, Tensor],
        progress: Progress = _START,
        targets: Any = None,
        images: Mapping[str, Tensor] | None = None,
    ) -> Simplified:
        """Return the simplified logits and what goes with them.

        Args:
            logits_by_name: Constant logits: ``(B, K)``, of regions ``(R, K)``, of a dense head ``(B, N, K)``.
            progress: See :meth:`adapt`.
            targets: See :meth:`adapt`.
            images: See :meth:`adapt`.
        """
        changed: dict[str, Tensor] = {}
        terms: dict[str, Tensor] = {}
        anchors: list[Tensor] = []
        for name, logits in logits_by_name.items():
            logits = full_precision(logits)
            if progress.epoch < self.start_epoch or not logits.numel():
                # A zero gradient for every parameter: data-parallel training waits for one.
                idle = [parameter.sum() * 0.0 for parameter in self.parameters() if parameter.requires_grad]
                changed[name] = logits + torch.stack(idle).sum().to(logits.dtype) if idle else logits
                continue
            picked = self._pick(logits)
            tokens = logits if picked is None else logits.gather(1, picked)
            soft = tokens / self.temperature
            simple = self.simplify(name, soft, (images or {}).get(name))
            result = self.temperature * simple
            changed[name] = result if picked is None else logits.scatter(1, picked, result.to(logits.dtype))
            suffix = "" if name == "final" else f"_{name}"
            terms[f"agreement{suffix}"] = 100.0 * self._agreement(name, soft, simple.detach())
            terms[f"change{suffix}"] = self._divergence(name, soft, simple.detach())
            if self.anchor == "ce" and self.anchor_weight:
                anchors.append(F.cross_entropy(result, targets))
            elif self.anchor == "kl" and self.anchor_weight:
                anchors.append(self._divergence(name, soft, simple))
        if not anchors:
            return Simplified(changed, terms)
        anchor = torch.stack(anchors).sum()
        return Simplified(changed, {**terms, "anchor": anchor.detach()}, self.anchor_weight * anchor)

    def simplify(self, name: str, soft: Tensor, images: Tensor | None = None) -> Tensor:
        """Return ``z~`` ``(..., T, K)``, with the mean over classes of ``soft``.

        Args:
            name: Name of the logits.
            soft: ``z^`` ``(..., T, K)``; leading dimensions are images of their own.
            images: ``(T,)``, image of each token, for regions, which attend to those of their own image.
        """
        level = soft.mean(dim=-1, keepdim=True)
        x = soft - level
        mask = None if images is None else images[:, None] == images[None, :]
        layers: Any = self.simplifiers[name]
        for layer in layers:
            x = x.to(next(layer.parameters()).dtype)
            change = layer(x, mask)
            x = x + change if self.residual else change
        return x + level

    def watch(self, terms: Mapping[str, float]) -> None:
        """Warn, or stop, where the agreement over a logging interval is below ``min_agreement``.

        Raises:
            CollapseError: With ``guard="stop"``.
        """
        for key, value in terms.items():
            if self.guard == "off" or not key.startswith("agreement"):
                continue
            if value >= self.min_agreement:
                self._warned.discard(key)
                continue
            line = (
                f"LearningSimplifier: {key} is {value:.0f} %, below min_agreement={self.min_agreement:g}: the target "
                "no longer agrees with the teacher, and a small distillation loss means nothing; set anchor='ce' or "
                "'kl', a larger anchor_weight, or a lower learning rate for distill.transform"
            )
            if self.guard == "stop":
                raise CollapseError(line)
            if key not in self._warned:
                print_log(line, logger="current", level=30)
                self._warned.add(key)

    def _pick(self, logits: Tensor) -> Tensor | None:
        """Return the indices ``(B, T, K)`` of the locations with the highest score on a dense head ``(B, N, K)``."""
        if logits.ndim == 2:
            return None
        count = min(self.max_tokens, logits.shape[1])
        best = logits.amax(dim=-1).topk(count, dim=1).indices
        return best[..., None].expand(-1, -1, logits.shape[-1])

    def _agreement(self, name: str, soft: Tensor, simple: Tensor) -> Tensor:
        if name in self.sigmoids:
            return ((soft > 0) == (simple > 0)).float().mean()
        return (soft.argmax(dim=-1) == simple.argmax(dim=-1)).float().mean()

    def _divergence(self, name: str, soft: Tensor, simple: Tensor) -> Tensor:
        return class_divergence(simple.flatten(0, -2), soft.flatten(0, -2), 1.0, name in self.sigmoids)
