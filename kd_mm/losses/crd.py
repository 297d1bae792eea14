"""Student and teacher embeddings of one image told from those of others (contrastive representation distillation)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather
from torch import Tensor, nn

from kd_mm.losses.base import Loss, LossContext
from kd_mm.losses.crd_bank import EmbeddingBank
from kd_mm.losses.functional import full_precision
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS

_DETECTORS = (
    "it draws images of other classes, so it belongs to classification and re-identification; for "
    "detectors take another feature loss, e.g. kd_mm.PKDLoss"
)


@MODELS.register_module()
class CRDLoss(Loss):
    """Contrastive representation distillation (CRD, Tian et al. 2020, arXiv 1910.10699), with a bank of embeddings.

    The pooled maps of one stage become unit embeddings ``s`` and ``t`` of ``dims`` numbers, one learned linear layer
    each. Two banks hold such embeddings of all n training samples. For sample j and K samples k of other classes, with
    ``P(x, y) = exp(x . y / T) / Z``:

    ``L = mean_j [ h(s_j, bank_t) + h(t_j, bank_s) ]``,
    ``h(x, bank) = -log(P(x, bank_j) / (P(x, bank_j) + K/n)) - sum_k log((K/n) / (P(x, bank_k) + K/n))``

    ``Z`` is set on the first batch so that P is 1/n on average, and stays. After each batch
    ``bank_j = normalised(momentum bank_j + (1 - momentum) x_j)``. Indices come from the data samples (``sample_idx``).
    The banks are buffers, so a resumed run goes on with them; with several processes all have the same.

    Public code: RepDistiller's ``CRDLoss``, mdistiller's ``CRD``, MMRazor's ``CRDLoss``. It adds 1e-7 to the
    denominators; this computes in logarithms, which no score can overflow. It draws the K samples in the data set, by
    class and each once; here they are drawn on the device, each possibly twice, and classes are learned as samples are
    seen: in the first epoch a sample not seen yet can be of the same class (our choice: it asks nothing of the data
    set). Public settings: weight 0.8, K 16384, T 0.07, momentum 0.5, 128 numbers, the embedding before the classifier.

    This has nothing to do with the cross-stage review of MTKD-SSR (:class:`kd_mm.CrossStageReviewLoss`).

    Args:
        num_negatives: K.
        temperature: T > 0.
        momentum: Share of the old embedding in [0, 1).
        dims: Numbers of an embedding.
        num_samples: n; by default the training data says it, through ``kd_mm.DistillHook``.
        **kwargs: See :class:`kd_mm.losses.base.Loss`; ``stages`` names one stage, the last by default.

    Raises:
        ValueError: Numbers out of range or several stages; on use, unknown n, an index beyond it, or a task without
            classes of whole images.
    """

    requires = frozenset({"student.features", "student.targets", "student.sample_indices", "teacher.features"})
    #: A teacher's maps need not be kept, only their spatial means.
    reads_means = True

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

    def not_for_detectors(self) -> str:
        """Return why a detector cannot use it: an image has no single class."""
        return _DETECTORS

    def stage_numbers(self, num_stages: int) -> tuple[int, ...]:
        """Return the stage that is read, the last one by default."""
        return super().stage_numbers(num_stages) if self.stages else (num_stages,)

    def setup(self, context: LossContext) -> None:
        """Create the linear layers, of the measured widths, and the bank where n is known."""
        for i in self.stage_numbers(len(context.pairs)):
            ours, theirs = (stage.channels for stage in context.pairs[i - 1])
            self.embed["student"] = nn.Linear(ours, self.dims)
            self.embed["teacher"] = nn.Linear(theirs, self.dims)
        self.bank.seed = int(torch.randint(2**31, ()))
        if self._num_samples is not None:
            self.bank.resize(self._num_samples)

    def expect_samples(self, num_samples: int) -> None:
        """Make the bank as large as the training data, unless the config says how large it is."""
        if self._num_samples is None:
            self.bank.resize(num_samples)

    def terms(self, student: Observation, teacher: Observation | None) -> dict[str, Tensor]:
        """Return the contrast of student embeddings and of teacher embeddings; the bank learns from both."""
        assert teacher is not None
        if not isinstance(student.targets, Tensor):
            raise ValueError(f"CRDLoss: {_DETECTORS}")
        assert student.sample_indices is not None
        (i,) = self.stage_numbers(max(student.features))
        maps = {"student": student.features[i], "teacher": teacher.features[i].detach()}
        embedded = {side: self.embedding(side, feature) for side, feature in maps.items()}
        self.bank.check(student.sample_indices)
        hard = student.targets.argmax(dim=1) if student.targets.ndim == 2 else student.targets
        mine = student.sample_indices.to(hard.device)
        indices, labels = torch.cat(all_gather(mine)), torch.cat(all_gather(hard))
        self.bank.learn_classes(indices, labels)
        return self.contrast(embedded, mine, self.bank.draw(hard, self.num_negatives), indices)

    def embedding(self, side: str, feature: Tensor) -> Tensor:
        """Return the unit embeddings ``(B, dims)`` of maps ``(B, C, H, W)`` of ``"student"`` or ``"teacher"``."""
        return F.normalize(self.embed[side](full_precision(feature).mean(dim=(2, 3))), dim=1)

    def contrast(
        self, embedded: dict[str, Tensor], mine: Tensor, negatives: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """Return the two halves of the loss, then let the bank learn.

        Args:
            embedded: ``"student"`` and ``"teacher"`` to ``(B, dims)``.
            mine: Indices ``(B,)`` of these samples.
            negatives: Indices ``(B, K)``.
            indices: Indices of all processes' samples, in the order of the processes.
        """
        picks = torch.cat([mine[:, None], negatives], dim=1)
        other = {"student": "teacher", "teacher": "student"}
        scores = {
            side: self.bank.scores(other[side], embedded[side], picks) / self.temperature
            for side in ("student", "teacher")
        }
        self.bank.fix_normalizers(scores)
        size = len(self.bank)
        parts = {side: noise_contrast(score - self.bank.log_normalizer(side), size) for side, score in scores.items()}
        for side, embedding in embedded.items():
            self.bank.learn(side, indices, torch.cat(all_gather(embedding.detach())))
        return parts


def noise_contrast(log_scores: Tensor, num_samples: int) -> Tensor:
    """Return ``h`` of :class:`CRDLoss`, a mean over the batch.

    Args:
        log_scores: ``(B, 1 + K)``, ``log P``; the true sample first.
        num_samples: n.
    """
    noise = math.log((log_scores.shape[1] - 1) / num_samples)
    positive = F.softplus(noise - log_scores[:, 0])
    return (positive + F.softplus(log_scores[:, 1:] - noise).sum(dim=1)).mean()
