"""Attention over a batch of logits, without biases, positions or dropout: the layers of the learning simplifier."""

import math

import torch
from torch import Tensor, nn


class _Attention(nn.Module):
    """Scaled dot-product attention with ``heads`` heads of ``dim`` together; ``W_o`` may start at 0."""

    def __init__(self, width: int, dim: int, heads: int, out: int, zero_init_out: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, dim, bias=False) for _ in range(3))
        self.out = nn.Linear(dim, out, bias=False)
        if zero_init_out:
            nn.init.zeros_(self.out.weight)

    def attend(self, x: Tensor, others: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``(..., T, out)`` of tokens ``(..., T, width)`` that look at ``others`` ``(..., M, width)``.

        Written out: PyTorch's fused form has no deterministic backward pass on every device.
        """
        projected = (self.q(x), self.k(others), self.v(others))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for part in projected)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        return self.out((scores.softmax(dim=-1) @ v).transpose(-2, -3).flatten(-2))


class SampleAttention(_Attention):
    """Each sample is a token, its K logits the embedding: ``softmax((x W_q)(x W_k)^T / sqrt(d / heads)) (x W_v) W_o``.

    Args:
        width: K.
        dim: d, the width of queries, keys and values; ``heads`` divides it.
        heads: Number of heads.
        zero_init_out: Whether ``W_o`` starts at 0, so that the layer gives 0 at first.
    """

    def __init__(self, width: int, dim: int, heads: int = 1, zero_init_out: bool = True) -> None:
        super().__init__(width, dim, heads, width, zero_init_out)

    def forward(self, x: Tensor, others: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return ``(..., T, K)`` for ``x`` ``(..., T, K)``.

        Args:
            x: The tokens.
            others: ``(M, K)``, the tokens that are looked at; ``x`` by default.
            mask: ``(T, M)``, where a token may look.
        """
        return self.attend(x, x if others is None else others, mask)


class ClassAttention(_Attention):
    """Each class is a token ``x_k u + e_k`` with learned ``u`` and ``e_k``; the classes of a sample look at each other.

    ``W_o`` is d to 1; for the arguments see :class:`SampleAttention`.
    """

    def __init__(self, width: int, dim: int, heads: int = 1, zero_init_out: bool = True) -> None:
        scale, classes = torch.randn(dim) / math.sqrt(dim), torch.randn(width, dim) / math.sqrt(dim)
        super().__init__(dim, dim, heads, 1, zero_init_out)
        self.scale, self.classes = nn.Parameter(scale), nn.Parameter(classes)

    def forward(self, x: Tensor, others: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return ``(..., T, K)`` for ``x`` ``(..., T, K)``; samples do not look at each other."""
        tokens = x[..., None] * self.scale + self.classes
        return self.attend(tokens, tokens).squeeze(-1)
