"""Attention over a batch of logits, without biases, positions or dropout: the layers of the learning simplifier."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SampleAttention(nn.Module):
    """Each sample is a token, its K logits the embedding: ``softmax((x W_q)(x W_k)^T / sqrt(d / heads)) (x W_v) W_o``.

    Args:
        width: K.
        dim: d, the width of queries, keys and values; ``heads`` divides it.
        heads: Number of heads.
        zero_init_out: Whether ``W_o`` starts at 0, so that the layer gives 0 at first.
    """

    def __init__(self, width: int, dim: int, heads: int = 1, zero_init_out: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, dim, bias=False) for _ in range(3))
        self.out = nn.Linear(dim, width, bias=False)
        if zero_init_out:
            nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, others: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return ``(..., T, K)``.

        Args:
            x: ``(..., T, K)``.
            others: ``(M, K)``, the tokens that are looked at; ``x`` by default.
            mask: ``(T, M)``, where a token may look.
        """
        others = x if others is None else others
        return self.out(attend(self.q(x), self.k(others), self.v(others), self.heads, mask))


class ClassAttention(nn.Module):
    """Each class is a token ``x_k u + e_k`` with learned ``u`` and ``e_k``; the classes of a sample look at each other.

    Args:
        width: K.
        dim: d; ``heads`` divides it.
        heads: Number of heads.
        zero_init_out: Whether ``W_o`` (d to 1) starts at 0, so that the layer gives 0 at first.
    """

    def __init__(self, width: int, dim: int, heads: int = 1, zero_init_out: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.scale = nn.Parameter(torch.randn(dim) / math.sqrt(dim))
        self.classes = nn.Parameter(torch.randn(width, dim) / math.sqrt(dim))
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.out = nn.Linear(dim, 1, bias=False)
        if zero_init_out:
            nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, others: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return ``(..., T, K)`` for ``x`` ``(..., T, K)``; samples do not look at each other."""
        tokens = x[..., None] * self.scale + self.classes
        return self.out(attend(self.q(tokens), self.k(tokens), self.v(tokens), self.heads, None)).squeeze(-1)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Return scaled dot-product attention of ``(..., T, d)`` over ``(..., M, d)``, head by head.

    Written out: PyTorch's fused form has no deterministic backward pass on every device.

    Args:
        q: ``(..., T, d)``.
        k: ``(..., M, d)``.
        v: ``(..., M, d)``.
        heads: Number of heads; divides d.
        mask: ``(T, M)``, where attention is allowed; every row allows something.
    """
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(-2, -3) for part in (q, k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return (scores.softmax(dim=-1) @ v).transpose(-2, -3).flatten(-2)
