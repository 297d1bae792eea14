"""Exits that classify the cells of a grid, for dense tasks."""

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_mm.models.exits import SepConvExit, average_pool, stride_ratio
from kd_mm.registry import MODELS


@MODELS.register_module()
class CellExit(SepConvExit):
    """The layers of :class:`SepConvExit` without its pooling over the image, and a 1x1 convolution as classifier.

    The last stage's exit has the separable step, too: a linear classifier of single positions predicts less than the
    exits of shallower stages. Logits ``(B, K, h, w)`` are independent sigmoids on a grid that the exits of all stages
    share: the last matched stage's resolution, or one of ``grid_stride``. They start at the probability ``prior``, as
    the classifier of a dense head under the focal loss (Lin et al. 2017). Stage logits by cell are our reading of
    MTKD-SSR in detection.

    Args:
        widths: See :class:`Exit`.
        num_classes: K.
        grid_stride: Pixels along a cell of the grid; the last matched stage's stride by default. Below that the maps of
            deeper stages are enlarged (bilinear), above it all maps are averaged.
        prior: Probability of a class in a cell before training. Default: 0.01.
        strides: See :class:`Exit`.
        **kwargs: See :class:`SepConvExit`.
    """

    output = "cells"
    layers_on_last = True

    def __init__(
        self,
        widths: Sequence[int],
        num_classes: int,
        grid_stride: float | None = None,
        prior: float = 0.01,
        strides: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        strides = [2.0**i for i in range(len(widths))] if strides is None else list(strides)
        grid_stride = grid_stride or strides[-1]
        # The layers end where the grid's resolution is reached, which a deeper stage's own map may lie below.
        end = max(strides[0], min(grid_stride, strides[-1]))
        super().__init__(widths, num_classes, strides=[*strides[:-1], end], **kwargs)
        self.fc: nn.Conv2d = nn.Conv2d(self.width, num_classes, 1)
        self.enlarge = stride_ratio([grid_stride, end])
        self.average = average_pool(stride_ratio([end, grid_stride])) if grid_stride > end else nn.Identity()
        self.prior = prior

    def init_weights(self) -> None:
        """As :class:`Exit`; the classifier starts at the prior."""
        super().init_weights()
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.constant_(self.fc.bias, math.log(self.prior / (1 - self.prior)))  # type: ignore[arg-type]

    def forward(self, feature: Tensor) -> Tensor:
        """Return logits ``(B, K, h, w)`` of a stage map ``(B, C_i, H, W)``."""
        logits = self.fc(self.average(self.body(feature)))
        if self.enlarge > 1:
            return F.interpolate(logits, scale_factor=self.enlarge, mode="bilinear")
        return logits
