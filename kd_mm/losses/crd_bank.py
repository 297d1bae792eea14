"""The bank of embeddings of all training samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather
from mmengine.logging import print_log
from torch import Tensor, nn

_SIDES = ("student", "teacher")


class EmbeddingBank(nn.Module):
    """Embeddings ``(n, dims)`` of student and teacher and the class of each sample seen, as buffers.

    Args:
        dims: Numbers of an embedding.
        momentum: Share of the old embedding when a sample is seen again.
    """

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
        """Make room for ``num_samples``; a bank of another size starts anew, with random embeddings.

        The embeddings are uniform in ``+-sqrt(3 / dims)``, as in RepDistiller, and the same in every process.
        """
        if num_samples == len(self):
            return
        generator = torch.Generator().manual_seed(self.seed)
        limit = math.sqrt(3 / self.dims)
        for side in _SIDES:
            values = torch.rand(num_samples, self.dims, generator=generator) * 2 * limit - limit
            setattr(self, side, values.to(getattr(self, side)))
        self.labels = self.labels.new_full((num_samples,), -1)
        self.log_normalizers = torch.full_like(self.log_normalizers, math.nan)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        stored = state_dict.get(f"{prefix}labels")
        if stored is not None and not len(self):
            self.resize(len(stored))
        elif stored is not None and len(stored) != len(self):
            print_log(
                f"the checkpoint's bank of embeddings is of {len(stored)} training samples, this run has {len(self)}: "
                "it starts with a new bank",
                logger="current",
                level=30,
            )
            state_dict.update({prefix + name: value for name, value in self.named_buffers()})
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def check(self, indices: Tensor) -> None:
        """Check indices ``(B,)``, on the CPU.

        Raises:
            ValueError: The bank's size is not known, or a sample lies beyond it.
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
    def learn_classes(self, indices: Tensor, labels: Tensor) -> None:
        """Note the classes ``(B,)`` of samples."""
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
        bank = getattr(self, side).to(embedding)
        if len(bank) <= picks.numel():  # one product with all is less work and memory than the picked rows
            return (embedding @ bank.clone().t()).gather(1, picks)
        return torch.bmm(bank[picks], embedding[:, :, None])[:, :, 0]

    @torch.no_grad()
    def fix_normalizers(self, scores: Mapping[str, Tensor]) -> None:
        """Set the logarithm of Z on the first batch: the mean of ``exp(score)``, of all processes, times n."""
        means = torch.stack([scores[side].flatten().logsumexp(0) - math.log(scores[side].numel()) for side in _SIDES])
        gathered = torch.stack(all_gather(means))
        estimate = gathered.logsumexp(0) - math.log(len(gathered)) + math.log(len(self))
        known = self.log_normalizers
        self.log_normalizers = torch.where(known.isnan(), estimate.to(known), known)

    def log_normalizer(self, side: str) -> Tensor:
        """Return the logarithm of Z of the scores of ``side``'s embeddings, a scalar."""
        return self.log_normalizers[_SIDES.index(side)]

    @torch.no_grad()
    def learn(self, side: str, indices: Tensor, embedding: Tensor) -> None:
        """Move the bank's embeddings of samples ``(B,)`` towards ``embedding`` ``(B, dims)``."""
        bank = getattr(self, side)
        moved = self.momentum * bank[indices] + (1 - self.momentum) * embedding.to(bank)
        bank[indices] = F.normalize(moved, dim=1)
