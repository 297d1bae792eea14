"""Generalised mean pooling that stays finite."""

import math

import torch
from mmpretrain.models.necks import GeneralizedMeanPooling as UpstreamGeneralizedMeanPooling
from torch import Tensor

from kd_mm.registry import MODELS


@MODELS.register_module()
class GeneralizedMeanPooling(UpstreamGeneralizedMeanPooling):
    """``(mean_{h,w} max(x, eps)^p)^(1/p)`` of each channel, with one p that is learnt (Radenovic et al., TPAMI 2019).

    p = 1 is average pooling, a large p approaches max pooling. mmpretrain's neck raises to the power p in the precision
    of its input, where ``40^3`` overflows float16; here it is a log-mean-exp in float32, finite for any p and input.

    Args:
        p: Start value, at least 1. Default 3.
        eps: Smallest value that counts, greater than 0.
        p_trainable: Whether p is learnt.

    Raises:
        ValueError: p is below 1, or eps not positive.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6, p_trainable: bool = True) -> None:
        if p < 1 or eps <= 0:
            raise ValueError(f"GeneralizedMeanPooling: p={p}, eps={eps}: p must be 1 or more, eps greater than 0")
        super().__init__(p=p, eps=eps, clamp=True, p_trainable=p_trainable)

    def forward(self, inputs: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        """Return ``(B, C)`` of a map ``(B, C, H, W)``, or a tuple of these; float32 (float64 for float64)."""
        return tuple(map(self.pool, inputs)) if isinstance(inputs, tuple) else self.pool(inputs)

    def pool(self, feature: Tensor) -> Tensor:
        """Return ``(B, C)`` of one map ``(B, C, H, W)``."""
        with torch.autocast(feature.device.type, enabled=False):
            dtype = torch.promote_types(feature.dtype, torch.float32)
            logs = feature.to(dtype).flatten(2).clamp(min=self.eps).log()
            p = self.p.to(dtype)
            return torch.exp((torch.logsumexp(p * logs, dim=2) - math.log(logs.shape[2])) / p)
