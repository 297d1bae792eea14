"""Student-friendly knowledge distillation: the teacher's logits are softened and simplified for the student."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather
from torch import Tensor, nn

from kd_mm.losses.functional import class_divergence, full_precision
from kd_mm.losses.observation import Observation, StageLogits
from kd_mm.losses.schedules import Progress
from kd_mm.losses.skd_attention import ClassAttention, SampleAttention
from kd_mm.registry import MODELS
from kd_mm.utils.suggest import choice, warn

_START = Progress()


class CollapseError(RuntimeError):
    """The simplified logits have left the teacher's."""


class Simplified(NamedTuple):
    """Simplified logits by name, scalars for the log, and a weighted term that trains the simplifier alone."""

    logits: dict[str, Tensor]
    terms: dict[str, Tensor]
    penalty: Tensor | None = None


@MODELS.register_module()
class LearningSimplifier(nn.Module):
    """Softens a teacher's logits, then passes them through a small trained attention: student-friendly distillation.

    Yuan, Lang, Quan (Knowledge-Based Systems 296, 2024, arXiv 2305.10893): a softening by temperature and a learning
    simplifier with attention, trained jointly with the student by the distillation loss, whose form stays as it is. Of
    the paper only the abstract was available: **every formula and default here is our reading.** With the teacher's
    logits z, ``x`` and ``W`` without biases::

        z^ = z / tau                          softening
        x  = z^ - mean_k(z^)                  centring
        A  = softmax((x W_q)(x W_k)^T / sqrt(d))    over the samples of the batch
        z~ = x + A (x W_v) W_o                simplified, already at temperature tau

    Losses get ``tau z~`` (plus the mean that centring took away, which only sigmoids see), so a loss at temperature tau
    compares with ``softmax(z~)``. With ``W_o = 0`` those are the teacher's logits. The distillation loss alone is
    smallest for a target that ignores the teacher; the residual and ``anchor`` keep it from going there, ``agreement``
    and ``change`` in the log show it: the percentage of samples whose largest class is the teacher's, and
    ``KL(softmax(z^) || softmax(z~))``. The network's own logits and each stage's have a simplifier of their
    own. On dense heads the ``max_tokens`` locations with the highest class score of each image are simplified, the
    other ones stay; regions look at those of their own image only.

    The learning rate is the student's times ``gradient_scale``, the weight decay the student's. Optimizers that
    normalise gradients (Adam) need another way:
    ``optim_wrapper.paramwise_cfg.custom_keys = {"distill.transform": dict(lr_mult=0.1, decay_mult=0.0)}``.

    Args:
        temperature: tau, of the softening; give the losses the same one, or another as an ablation.
        soften: ``"logits"`` (divided by tau) or ``"prob"`` (then ``log softmax``; differs only without ``center``).
        center: Whether the mean over classes is hidden from the attention; softmax ignores it as well.
        tokens: ``"batch"`` (a sample is a token, its K logits the embedding) or ``"class"`` (a class is a token with a
            learned embedding; memory B K K).
        dim: d, the width of the attention; ``min(K, 256)`` by default, rounded down to a multiple of ``heads``.
        heads: Attention heads.
        layers: Attention layers, one after the other.
        residual: Whether x is added; without it training collapses easily.
        zero_init_out: Whether ``W_o`` starts at 0, that is, at the teacher's own logits.
        anchor: ``"none"``, ``"ce"`` (cross-entropy of ``tau z~`` with the label) or ``"kl"`` (of ``z~`` with ``z^``).
        anchor_weight: Weight of the anchor, which trains the simplifier alone.
        detach_target: Whether the simplifier stays as it is at its start (ablation).
        start_epoch: Zero-based epoch before which logits stay as they are.
        gradient_scale: Factor of the gradients of the attention, above 0; under SGD a factor of its learning rate.
        scope: ``"batch"`` (samples of this process look at each other) or ``"gathered"`` (also at those of the
            other processes, whose batches have equal sizes; one layer).
        shared: Whether all sets of logits share one simplifier; they need the same number of classes then.
        max_tokens: Locations an image on dense heads.
        min_agreement: Percentage of agreement under which ``guard`` acts.
        guard: ``"warn"``, ``"stop"`` (a :class:`CollapseError`) or ``"off"``.
        losses: Names of the losses that read the adapted logits; by default all that read a teacher's logits.

    Raises:
        ValueError: An option that is none of its choices, or that does not fit the logits.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        soften: str = "logits",
        center: bool = True,
        tokens: str = "batch",
        dim: int | None = None,
        heads: int = 1,
        layers: int = 1,
        residual: bool = True,
        zero_init_out: bool = True,
        anchor: str = "none",
        anchor_weight: float = 0.1,
        detach_target: bool = False,
        start_epoch: int = 0,
        gradient_scale: float = 1.0,
        scope: str = "batch",
        shared: bool = False,
        max_tokens: int = 512,
        min_agreement: float = 50.0,
        guard: str = "warn",
        losses: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.losses = None if losses is None else tuple(losses)
        positive = {"temperature": temperature, "gradient_scale": gradient_scale}
        for name, value in {**positive, "heads": heads, "layers": layers, "dim": dim or 1}.items():
            if value <= 0:
                raise ValueError(f"LearningSimplifier: {name}={value} must be above 0")
        self.temperature, self.center, self.residual = temperature, center, residual
        self.soften = choice("soften", soften, ("logits", "prob"))
        self.tokens = choice("tokens", tokens, ("batch", "class"))
        self.dim, self.heads, self.layers, self.zero_init_out = dim, heads, layers, zero_init_out
        self.anchor, self.anchor_weight = choice("anchor", anchor, ("none", "ce", "kl")), anchor_weight
        self.detach_target, self.start_epoch, self.shared = detach_target, start_epoch, shared
        self.scope = choice("scope", scope, ("batch", "gathered"))
        if scope == "gathered" and layers > 1:
            raise ValueError("LearningSimplifier: scope='gathered' goes with layers=1")
        self.max_tokens, self.min_agreement, self.gradient_scale = max_tokens, min_agreement, gradient_scale
        self.guard = choice("guard", guard, ("warn", "stop", "off"))
        self.simplifiers = nn.ModuleDict()
        #: Names of the logits that are adapted: the network's own are ``final``, those of stage i ``stage<i>``.
        self.names: frozenset[str] = frozenset()
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
            ValueError: Options that do not fit the logits, see the class.
        """
        if self.needs_targets and not labelled:
            raise ValueError("LearningSimplifier: anchor='ce' needs one label for each row of logits; use anchor='kl'")
        if self.soften == "prob" and sigmoids:
            raise ValueError(f"LearningSimplifier: soften='prob' is a softmax, but {min(sigmoids)} is sigmoids")
        self.names, self.sigmoids, self.last = frozenset(widths), sigmoids, last
        widths = dict(widths)
        if self.shared:
            if len(set(widths.values())) > 1:
                raise ValueError(f"LearningSimplifier: shared=True needs equal numbers of classes, there are {widths}")
            widths = {"shared": next(iter(widths.values()))}
        kind = SampleAttention if self.tokens == "batch" else ClassAttention
        for name, width in sorted(widths.items()):
            dim = self.dim or max(min(width, 256) // self.heads, 1) * self.heads
            if dim % self.heads:
                raise ValueError(f"LearningSimplifier: dim={dim} is not a multiple of heads={self.heads}")
            layers = (kind(width, dim, self.heads, self.zero_init_out) for _ in range(self.layers))
            self.simplifiers[name] = nn.ModuleList(layers)
        if self.detach_target:
            self.requires_grad_(False)
        elif self.gradient_scale != 1.0:
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
        stages: Mapping[int, Tensor] = teacher.stage_logits or {}
        logits = {f"stage{i}": one for i, one in stages.items()} | {"final": teacher.logits}
        logits = {name: one for name, one in logits.items() if name in self.names}
        with torch.autocast(next(iter(logits.values())).device.type, enabled=False):
            changed, terms, penalty = self(logits, progress, targets, images)
        by_stage = {i: changed.get("final" if i == self.last else f"stage{i}", one) for i, one in stages.items()}
        changes: dict[str, Any] = {"stage_logits": StageLogits.of(by_stage)} if by_stage else {}
        return replace(teacher, logits=changed.get("final", teacher.logits), **changes), terms, penalty

    def forward(
        self,
        logits_by_name: Mapping[str, Tensor],
        progress: Progress = _START,
        targets: Any = None,
        images: Mapping[str, Tensor] | None = None,
    ) -> Simplified:
        """Return the simplified logits and what goes with them; for the other arguments see :meth:`adapt`.

        Args:
            logits_by_name: Constant logits: ``(B, K)``, of regions ``(R, K)``, of a dense head ``(B, N, K)``.
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
            picked = None
            if logits.ndim == 3:  # the locations of a dense head with the highest score
                best = logits.amax(dim=-1).topk(min(self.max_tokens, logits.shape[1]), dim=1).indices
                picked = best[..., None].expand(-1, -1, logits.shape[-1])
            soft = self.softened(logits if picked is None else logits.gather(1, picked))
            simple = self.simplify(name, soft, (images or {}).get(name))
            result = self.temperature * simple
            changed[name] = result if picked is None else logits.scatter(1, picked, result.to(logits.dtype))
            suffix, constant = "" if name == "final" else f"_{name}", simple.detach()
            agree = soft.argmax(dim=-1) == constant.argmax(dim=-1)
            if name in self.sigmoids:
                agree = (soft > 0) == (constant > 0)
            terms[f"agreement{suffix}"] = 100.0 * agree.float().mean()
            terms[f"change{suffix}"] = self._divergence(name, soft, constant)
            if self.anchor == "ce" and self.anchor_weight:
                anchors.append(F.cross_entropy(result, targets))
            elif self.anchor == "kl" and self.anchor_weight:
                anchors.append(self._divergence(name, soft, simple))
        if not anchors:
            return Simplified(changed, terms)
        anchor = torch.stack(anchors).sum()
        return Simplified(changed, {**terms, "anchor": anchor.detach()}, self.anchor_weight * anchor)

    def softened(self, logits: Tensor) -> Tensor:
        """Return ``z^`` ``(..., K)`` of logits ``(..., K)``."""
        soft = logits / self.temperature
        return F.log_softmax(soft, dim=-1) if self.soften == "prob" else soft

    def simplify(self, name: str, soft: Tensor, images: Tensor | None = None) -> Tensor:
        """Return ``z~`` ``(..., T, K)``, with the mean over classes of ``soft``.

        Args:
            name: Name of the logits.
            soft: ``z^`` ``(..., T, K)``; leading dimensions are images of their own.
            images: ``(T,)``, image of each token, for regions; tokens of different images do not see each other.
        """
        level = soft.mean(dim=-1, keepdim=True) if self.center else torch.zeros_like(soft[..., :1])
        x = soft - level
        mask = None if images is None else images[:, None] == images[None, :]
        layers: Any = self.simplifiers["shared" if self.shared else name]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach_target):
            for layer in layers:
                x, others = x.to(layer.out.weight.dtype), None
                if self.scope == "gathered" and x.ndim == 2 and mask is None:
                    others = torch.cat(all_gather(x.detach().contiguous()))
                change = layer(x, others, mask)
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
                warn(line)
                self._warned.add(key)

    def _divergence(self, name: str, soft: Tensor, simple: Tensor) -> Tensor:
        return class_divergence(simple.flatten(0, -2), soft.flatten(0, -2), 1.0, name in self.sigmoids)
