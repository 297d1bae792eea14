"""The common frame of kd_mm's backbones: a stem, then named stages, one a resolution level; and shared layers."""

from collections.abc import Sequence
from typing import ClassVar

from mmengine.model import BaseModule
from torch import Tensor, nn

KAIMING_FAN_OUT: list[dict] = [
    {"type": "Kaiming", "layer": "Conv2d", "mode": "fan_out", "nonlinearity": "relu"},
    {"type": "Constant", "val": 1, "layer": "_BatchNorm"},
]


class StagedBackbone(BaseModule):
    """A stem followed by ``layer1`` ... ``layerN``.

    Each stage ends after its last activation, so that the output of the module ``layer3`` is what a following stage or
    the pooling sees. ``stage_names`` lists the stages from shallow to deep.

    Args:
        stem: Everything ahead of the first stage; ``nn.Identity()`` where there is nothing.
        stages: The stages from shallow to deep; they become ``layer1``, ``layer2`` ...
        out_indices: Zero-based stages whose outputs are returned. Default: the last one alone.
        init_cfg: mmengine initialisation; ``None`` keeps torch's own. Default: Kaiming normal, fan out.

    Raises:
        ValueError: If ``out_indices`` is empty or names a stage that does not exist.
    """

    #: Pixels of the images that the network is made for; dry runs and FLOP counts take it. Any other size works.
    img_size: ClassVar[int] = 32

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        out_indices: Sequence[int] | None = None,
        init_cfg: dict | list[dict] | None = KAIMING_FAN_OUT,
    ) -> None:
        super().__init__(init_cfg)
        self.stem = stem
        self.stage_names = tuple(f"layer{number}" for number in range(1, len(stages) + 1))
        for name, stage in zip(self.stage_names, stages, strict=True):
            self.add_module(name, stage)
        last = len(stages) - 1
        self.out_indices = (last,) if out_indices is None else tuple(out_indices)
        if not self.out_indices or not set(self.out_indices) <= set(range(len(stages))):
            raise ValueError(
                f"{type(self).__name__}: out_indices must be chosen from 0 to {last}, one for each of "
                f"{', '.join(self.stage_names)}; got {out_indices}"
            )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs ``(B, C, H, W)`` of the stages in ``out_indices``, shallow to deep."""
        x = self.stem(x)
        outputs = []
        for index, name in enumerate(self.stage_names):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                outputs.append(x)
        return tuple(outputs)


class ConvNorm(nn.Sequential):
    """Convolution, batch normalisation and, unless switched off, ReLU: ``conv``, ``norm``, ``act``.

    Padding keeps the size at stride 1. The convolution has no bias unless asked for one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        *,
        bias: bool = False,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=bias
        )
        self.norm = nn.BatchNorm2d(out_channels)
        if act:
            self.act = nn.ReLU(inplace=True)
