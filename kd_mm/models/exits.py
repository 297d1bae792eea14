"""What is attached to stages: exits, heads that turn a map into logits, and connectors to the teacher's width."""

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule, kaiming_init
from torch import Tensor, nn

from kd_mm.registry import MODELS
from kd_mm.stages.stage import Stage
from kd_mm.utils.suggest import choice


class Exit(BaseModule):
    """Base: ``(B, C_i, H, W)`` to logits ``(B, K)``.

    Args:
        widths: Channels of stage i and of every deeper matched stage of the same network, ``[C_i, ..., C_N]``.
        num_classes: K.
        norm: ``"BN"``, or ``"GN"`` (32 groups) where the batch on a device is too small for batch statistics.
        strides: Pixels per cell of the same stages; default: each stage has twice the stride of the one before it.
    """

    #: Whether ``rest`` (the modules of the deeper stages) is handed to the constructor.
    needs_rest: ClassVar[bool] = False
    #: What its logits classify: the ``"image"`` or ``"cells"`` of it.
    output: ClassVar[str] = "image"

    def __init__(
        self, widths: Sequence[int], num_classes: int, norm: str = "BN", strides: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.num_classes, self.norm = num_classes, choice("exit norm", norm, ("BN", "GN"))
        self.strides = [2.0**i for i in range(len(widths))] if strides is None else list(strides)
        self.body: nn.Module = nn.Identity()
        self.fc: nn.Module = nn.Linear(widths[-1], num_classes)

    def norm_layer(self, channels: int) -> nn.Module:
        """Return the normalisation of ``channels`` channels; GN takes the largest group count up to 32 that divides."""
        if self.norm == "BN":
            return nn.BatchNorm2d(channels)
        return nn.GroupNorm(next(g for g in range(min(32, channels), 0, -1) if channels % g == 0), channels)

    def init_weights(self) -> None:
        """Kaiming normal (fan out) for convolutions, 1 and 0 for norms; the classifier keeps PyTorch's default."""
        _init_convolutions(self)

    def embed(self, feature: Tensor) -> Tensor:
        """Return what the classifier reads of a stage map ``(B, C_i, H, W)``: pooled features ``(B, D)``."""
        return self.body(feature).mean(dim=(2, 3))

    def forward(self, feature: Tensor) -> Tensor:
        """Return logits ``(B, K)`` of a stage map ``(B, C_i, H, W)``."""
        return self.fc(self.embed(feature))


def _init_convolutions(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            kaiming_init(module)


@MODELS.register_module()
class SepConvExit(Exit):
    """Average pooling to twice the last stage's resolution, one separable step, pooling and a linear layer.

    The step is: depthwise 3x3 stride 2, pointwise, norm, ReLU, depthwise 3x3, pointwise, norm, ReLU. Its cost is about
    the same at each stage, since it runs at the last stage's resolution. The kind of head of TOFD (Zhang et al.,
    NeurIPS 2020), which has such a step for each deeper stage; its use in MTKD-SSR is our reading.

    With ``r``, the last stage's stride over the stage's own, rounded: windows of ``r // 2`` cells are averaged, those
    at the edge over the cells that they hold. There is no pooling where ``r`` is 2 or 3. Where ``r`` is 1, as between
    the layers of a plain transformer, the first convolution keeps the resolution. The exit of the last stage itself
    has no layers before its classifier.

    Args:
        widths: See :class:`Exit`.
        num_classes: K.
        hidden: Channels after each pointwise convolution; the last stage's where it has fewer, or with ``None``.
        **kwargs: See :class:`Exit`.
    """

    #: Whether the exit of the last stage has the separable step, too.
    layers_on_last: ClassVar[bool] = False

    def __init__(self, widths: Sequence[int], num_classes: int, hidden: int | None = 512, **kwargs: Any) -> None:
        deeper = len(widths) > 1 or self.layers_on_last
        self.width = min(hidden or widths[-1], widths[-1]) if deeper else widths[-1]
        super().__init__([*widths[:-1], self.width], num_classes, **kwargs)
        ratio = stride_ratio(self.strides)
        layers: list[nn.Module] = [average_pool(ratio // 2)] if ratio > 3 else []
        if deeper:
            layers += [*self._separable(widths[0], stride=min(ratio, 2)), *self._separable(self.width, stride=1)]
        self.body: nn.Sequential = nn.Sequential(*layers)

    def _separable(self, width: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            nn.Conv2d(width, self.width, 1, bias=False),
            self.norm_layer(self.width),
            nn.ReLU(inplace=True),
        ]


@MODELS.register_module()
class MirrorExit(Exit):
    """A fresh copy of the network's own remaining stages, as in HSAKD (Yang et al., IJCAI 2021).

    Args:
        widths: See :class:`Exit`.
        num_classes: K.
        rest: The modules of the deeper stages, in order; copied and initialised anew.
        **kwargs: See :class:`Exit`; ``norm`` and ``strides`` are unused, the copy keeps the network's own.
    """

    needs_rest = True

    def __init__(self, widths: Sequence[int], num_classes: int, rest: Sequence[nn.Module] = (), **kwargs: Any) -> None:
        super().__init__(widths, num_classes, **kwargs)
        self.body = nn.Sequential(*(_fresh_copy(module) for module in rest))


def stride_ratio(strides: Sequence[float]) -> int:
    """Return how many cells of the first of some stages lie along one cell of the last, rounded, at least 1."""
    return max(1, round(strides[-1] / strides[0]))


def average_pool(cells: int) -> nn.AvgPool2d:
    """Return average pooling over windows of ``cells`` x ``cells``; at the edge over the cells that there are."""
    return nn.AvgPool2d(cells, ceil_mode=True, count_include_pad=False)


def like_parameters(feature: Tensor, module: nn.Module) -> Tensor:
    """Return a map in the dtype of a module's parameters, unless autocast sees to that."""
    if torch.is_autocast_enabled(feature.device.type):
        return feature
    return feature.to(next(module.parameters()).dtype)


def is_sequential(rest: Sequence[nn.Module], feature: Tensor, outputs: Sequence[Tensor]) -> bool:
    """Return whether running ``rest`` one after the other on ``feature`` gives ``outputs``."""
    try:
        for module, output in zip(rest, outputs, strict=True):
            feature = module(feature)
            if feature.shape != output.shape or not torch.allclose(feature, output, rtol=1e-3, atol=1e-4):
                return False
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return False
    return True


def _fresh_copy(module: nn.Module) -> nn.Module:
    # A copy takes the taps' hooks, and with them the recorder, along; torch has no public way to leave hooks out.
    hooks: dict[nn.Module, Any] = {}
    for child in module.modules():
        hooks[child], child._forward_hooks = child._forward_hooks, type(child._forward_hooks)()
    fresh = copy.deepcopy(module)
    for child, kept in hooks.items():
        child._forward_hooks = kept
    for child in fresh.modules():
        for parameter in child.parameters(recurse=False):
            parameter.requires_grad_(True)
        reset = getattr(child, "reset_parameters", None)
        if callable(reset):
            reset()
    return fresh


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


@MODELS.register_module()
class ConvConnector(BaseModule):
    """``phi``: convolution 1x1 without bias, batch norm, activation, as in Channel Distillation (Zhou et al. 2020).

    Args:
        student: The student's stage, measured.
        teacher: The teacher's stage, measured.
        policy: ``"always"``, or ``"on_mismatch"``: the identity where the channel counts agree. Equal widths of two
            independently trained networks have no common channel order, so the default is always.
        act: ``"auto"`` (ReLU where the teacher's stage ends in one, since a ReLU cannot reach negative targets),
            ``"relu"`` or ``"none"``.
        norm: ``"BN"``, or ``"none"``: a convolution with bias alone, for losses that standardise each channel
            themselves (:class:`kd_mm.losses.PKDLoss`). They depend on the sign of a batch norm's scale, not on its
            size, so that a scale of the wrong sign shrinks to 0, where the gradient is without bound.

    Raises:
        ValueError: An unknown option.
    """

    def __init__(
        self, student: Stage, teacher: Stage, policy: str = "always", act: str = "auto", norm: str = "BN"
    ) -> None:
        super().__init__()
        choice("ConvConnector: policy", policy, ("always", "on_mismatch"))
        choice("ConvConnector: act", act, ("auto", "relu", "none"))
        choice("ConvConnector: norm", norm, ("BN", "none"))
        self.body: nn.Module = nn.Identity()
        if policy == "always" or student.channels != teacher.channels:
            layers: list[nn.Module] = [nn.Conv2d(student.channels, teacher.channels, 1, bias=norm == "none")]
            if norm == "BN":
                layers.append(nn.BatchNorm2d(teacher.channels))
            if act == "relu" or (act == "auto" and teacher.post_relu):
                layers.append(nn.ReLU(inplace=True))
            self.body = nn.Sequential(*layers)

    def init_weights(self) -> None:
        """As :class:`Exit`."""
        _init_convolutions(self)

    def forward(self, feature: Tensor) -> Tensor:
        """Map ``(B, C_s, H, W)`` to ``(B, C_t, H, W)``."""
        return self.body(feature)
