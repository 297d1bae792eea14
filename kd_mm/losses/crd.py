"""Contrastive representation distillation (CRD) with a bank of embeddings."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather
from torch import Tensor, nn

from kd_mm.losses.base import ALL_TASKS, Loss, LossContext
from kd_mm.losses.functional import full_precision
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS
from kd_mm.utils.suggest import warn

_SIDES = ("student", "teacher")


@MODELS.register_module()
class CRDLoss(Loss):
    """Contrast student and teacher embeddings of one image with those of other classes (CRD).

    CRD (Tian et al. 2020, arXiv 1910.10699): the pooled maps of one stage become unit embeddings ``s`` and ``t`` of
    ``dims`` numbers, one learned linear layer each. Two banks hold such embeddings of all n training samples. For
    sample j and K samples k of other classes, with ``P(x, y) = exp(x . y / T) / Z``:

    ``L = mean_j [ h(s_j, bank_t) + h(t_j, bank_s) ]``,
    ``h(x, bank) = -log(P(x, bank_j) / (P(x, bank_j) + K/n)) - sum_k log((K/n) / (P(x, bank_k) + K/n))``

    ``Z`` is set on the first batch so that P is 1/n on average, and stays. After each batch
    ``bank_j = normalised(momentum bank_j + (1 - momentum) x_j)``. Indices come from the data samples (``sample_idx``).
    The banks are buffers, equal in all processes, so that a resumed run continues with them.

    Public code: RepDistiller's ``CRDLoss``, mdistiller's ``CRD``. It draws the K samples in the data set, by class and
    each once; here they are drawn on the device, possibly twice, and classes are learned as samples occur: in the first
    epoch a sample that has not occurred yet can be of the same class (our reading: it requires nothing of the data
    set).

    Args:
        num_negatives: K. Default: 16384.
        temperature: T > 0. Default: 0.07.
        momentum: Share of the old embedding, in [0, 1). Default: 0.5.
        dims: Numbers of an embedding. Default: 128.
        num_samples: n. Default: the length of the training data, set by ``kd_mm.DistillHook``.
        **kwargs: See :class:`kd_mm.losses.base.Loss`; ``stages`` names one stage, the last by default.

    Raises:
        ValueError: For numbers out of range or several stages; on use, for an unknown n, or an index beyond it.
    """

    requires = frozenset({"student.features", "student.targets", "student.sample_indices", "teacher.pooled"})
    reads_last_stage = True
    tasks = ALL_TASKS - {"detection"}
    exclusive_classes = True
    instead = (
        "it draws images of other classes, so it belongs to classification and re-identification; for detectors take "
        "another feature loss, e.g. kd_mm.PKDLoss"
    )

    def __init__(
        self,
        num_negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        dims: int = 128,
        num_samples: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if num_negatives < 1 or temperature <= 0 or not 0 <= momentum < 1 or dims < 1:
            raise ValueError(
                f"CRDLoss: num_negatives={num_negatives} and dims={dims} must be at least 1, "
                f"temperature={temperature} above 0, momentum={momentum} in [0, 1)"
            )
        if self.stages is not None and len(self.stages) != 1:
            raise ValueError(f"CRDLoss compares one stage, but stages={list(self.stages)}; name one")
        self.num_negatives, self.temperature, self.dims = num_negatives, temperature, dims
        self.embed = nn.ModuleDict()
        self.bank = EmbeddingBank(dims, momentum)
        self._num_samples = num_samples

    def setup(self, context: LossContext) -> None:
        (i,) = self.stage_numbers(len(context.pairs))
        for side, stage in zip(_SIDES, context.pairs[i - 1], strict=True):
            self.embed[side] = nn.Linear(stage.channels, self.dims)
        self.bank.seed = int(torch.randint(2**31, ()))
        if self._num_samples is not None:
            self.bank.resize(self._num_samples)

    def expect_samples(self, num_samples: int) -> None:
        """Make the bank as large as the training data, unless the config sets its size."""
        if self._num_samples is None:
            self.bank.resize(num_samples)

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the contrast of student embeddings and of teacher embeddings, then update the bank with both.

        Raises:
            ValueError: If an index lies beyond the bank.
        """
        (i,) = self.stage_numbers(max(student.features))
        pooled = full_precision(student.features[i]).mean(dim=(2, 3)), teacher.pooled[i].detach()
        embeddings = {side: self.embedding(side, one) for side, one in zip(_SIDES, pooled, strict=True)}
        self.bank.check(student.sample_indices)
        hard = student.targets.argmax(dim=1) if student.targets.ndim == 2 else student.targets
        own = student.sample_indices.to(hard.device)
        indices, labels = torch.cat(all_gather(own)), torch.cat(all_gather(hard))
        self.bank.set_classes(indices, labels)
        return self.contrast(embeddings, own, self.bank.draw(hard, self.num_negatives), indices)

    def embedding(self, side: str, pooled: Tensor) -> Tensor:
        """Return the unit embeddings ``(B, dims)`` of spatial means ``(B, C)`` of ``"student"`` or ``"teacher"``."""
        return F.normalize(self.embed[side](full_precision(pooled)), dim=1)

    def contrast(
        self, embeddings: dict[str, Tensor], own: Tensor, negatives: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """Return the two halves of the loss, then update the bank.

        Args:
            embeddings: ``"student"`` and ``"teacher"`` to ``(B, dims)``.
            own: Indices ``(B,)`` of these samples.
            negatives: Indices ``(B, K)``.
            indices: Indices of all processes' samples, in the order of the processes.
        """
        picks = torch.cat([own[:, None], negatives], dim=1)
        scores = [
            self.bank.scores(other, embeddings[side], picks) / self.temperature
            for side, other in zip(_SIDES, reversed(_SIDES), strict=True)
        ]
        self.bank.fix_normalizers(scores)
        normalizers = self.bank.log_normalizers
        terms = {
            side: noise_contrast(score - normalizer, len(self.bank))
            for side, score, normalizer in zip(_SIDES, scores, normalizers, strict=True)
        }
        for side, embedding in embeddings.items():
            self.bank.update(side, indices, torch.cat(all_gather(embedding.detach())))
        return terms


class EmbeddingBank(nn.Module):
    """Embeddings ``(n, dims)`` of student and teacher, the class of each sample and ``log Z`` of both, as buffers."""

    student: Tensor
    teacher: Tensor
    labels: Tensor
    log_normalizers: Tensor

    def __init__(self, dims: int, momentum: float) -> None:
        super().__init__()
        self.dims, self.momentum, self.seed = dims, momentum, 0
        for side in _SIDES:
            self.register_buffer(side, torch.zeros(0, dims))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.long))
        self.register_buffer("log_normalizers", torch.full((2,), math.nan))

    def __len__(self) -> int:
        return len(self.labels)

    def resize(self, num_samples: int) -> None:
        """Set n; a bank of another size starts again, with random embeddings.

        The embeddings are uniform in ``+-sqrt(3 / dims)``, as in RepDistiller, and the same in every process.
        """
        if num_samples == len(self):
            return
        generator = torch.Generator().manual_seed(self.seed)
        limit = math.sqrt(3 / self.dims)
        self.student, self.teacher = (
            (torch.rand(num_samples, self.dims, generator=generator) * 2 * limit - limit).to(bank)
            for bank in (self.student, self.teacher)
        )
        self.labels = self.labels.new_full((num_samples,), -1)
        self.log_normalizers = torch.full_like(self.log_normalizers, math.nan)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        stored = state_dict.get(f"{prefix}labels")
        if stored is not None and not len(self):
            self.resize(len(stored))
        elif stored is not None and len(stored) != len(self):
            warn(
                f"the checkpoint's bank of embeddings is of {len(stored)} training samples, this run has {len(self)}: "
                "it starts with a new bank"
            )
            state_dict.update({prefix + name: value for name, value in self.named_buffers()})
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def check(self, indices: Tensor) -> None:
        """Check indices ``(B,)``, on the CPU.

        Raises:
            ValueError: If the bank's size is not known, or a sample lies beyond it.
        """
        if not len(self):
            raise ValueError(
                "CRDLoss: the number of training samples is not known; train with kd_mm.DistillHook and one "
                "data set (indices of joined ones collide), or give num_samples="
            )
        if int(indices.max()) >= len(self) or int(indices.min()) < 0:
            raise ValueError(
                f"CRDLoss: sample_idx {int(indices.max())}, but the bank is of {len(self)} samples "
                "(num_samples, or the length of the training data)"
            )

    @torch.no_grad()
    def set_classes(self, indices: Tensor, labels: Tensor) -> None:
        """Store the classes ``(B,)`` of samples ``(B,)``."""
        self.labels[indices] = labels.to(self.labels)

    @torch.no_grad()
    def draw(self, labels: Tensor, count: int) -> Tensor:
        """Draw ``count`` samples for each of ``labels`` ``(B,)``, uniformly from those not known to be of its class.

        Returns:
            Indices ``(B, count)``. Where all samples are of one class, any of them.
        """
        ordered, order = self.labels.sort()
        labels = labels.to(ordered)
        start = torch.searchsorted(ordered, labels)[:, None]
        same = torch.searchsorted(ordered, labels, right=True)[:, None] - start
        others = (len(self) - same).clamp(min=1)
        share = torch.rand(len(labels), count, device=ordered.device, dtype=torch.float64)
        drawn = (share * others).long()
        drawn = drawn + (drawn >= start) * same
        return order[drawn % len(self)]

    def scores(self, side: str, embedding: Tensor, picks: Tensor) -> Tensor:
        """Return the products ``(B, P)`` of embeddings ``(B, dims)`` with those of ``side`` at ``picks`` ``(B, P)``."""
        bank = self.get_buffer(side).to(embedding)
        if len(bank) <= picks.numel():  # one product with all is less work and memory than the picked rows
            return (embedding @ bank.clone().t()).gather(1, picks)
        return torch.bmm(bank[picks], embedding[:, :, None])[:, :, 0]

    @torch.no_grad()
    def fix_normalizers(self, scores: Sequence[Tensor]) -> None:
        """Set the logarithm of Z on the first batch: the mean of ``exp(score)``, of all processes, times n."""
        means = torch.stack([score.flatten().logsumexp(0) - math.log(score.numel()) for score in scores])
        gathered = torch.stack(all_gather(means))
        estimate = gathered.logsumexp(0) - math.log(len(gathered)) + math.log(len(self))
        known = self.log_normalizers
        self.log_normalizers = torch.where(known.isnan(), estimate.to(known), known)

    @torch.no_grad()
    def update(self, side: str, indices: Tensor, embedding: Tensor) -> None:
        """Move the bank's embeddings of samples ``(B,)`` towards ``embedding`` ``(B, dims)``."""
        bank = self.get_buffer(side)
        moved = self.momentum * bank[indices] + (1 - self.momentum) * embedding.to(bank)
        bank[indices] = F.normalize(moved, dim=1)


def noise_contrast(log_scores: Tensor, num_samples: int) -> Tensor:
    """Return ``h`` of :class:`CRDLoss`, a mean over the batch, of ``log P`` ``(B, 1 + K)``, the true sample first."""
    noise = math.log((log_scores.shape[1] - 1) / num_samples)
    positive = F.softplus(noise - log_scores[:, 0])
    return (positive + F.softplus(log_scores[:, 1:] - noise).sum(dim=1)).mean()
