"""A stage: a named module of a network whose output is one resolution level."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Stage:
    """What is known of one stage before training: all of it measured in a dry run, none of it typed.

    Attributes:
        index: Position among the stages of its network, 1 (shallow) to N (deep).
        tap: Where the output is read, in tap grammar, e.g. ``backbone.layer3`` (see :mod:`kd_mm.stages.tap`).
        layout: ``"map"`` for ``(B, C, H, W)``, ``"tokens"`` for ``(B, L, C)``,
            ``"channels_last"`` for ``(B, H, W, C)``.
        channels: C.
        height: H in cells; for tokens the height of the patch grid.
        width: W in cells; for tokens the width of the patch grid.
        stride: Input height divided by ``height`` (pixels per cell).
        extra_tokens: Class or distillation tokens ahead of the patch tokens, ``L = extra_tokens + H * W``.
        post_relu: Whether the output is never negative because a ReLU made it.
        params: Parameters from the previous stage's output up to this one.
    """

    index: int
    tap: str
    layout: str
    channels: int
    height: int
    width: int
    stride: float
    extra_tokens: int = 0
    post_relu: bool = False
    params: int = 0

    def to_map(self, feature: Tensor) -> Tensor:
        """Return the stage output as a feature map ``(B, C, H, W)``, whatever its layout. Class tokens are dropped.

        The grid is that of the feature itself where it has one, so inputs of another size than the dry run's work;
        for tokens the aspect ratio of the dry run is kept.

        Args:
            feature: Output of the tapped module in ``layout``.
        """
        if self.layout == "map":
            return feature
        if self.layout == "channels_last":
            return feature.permute(0, 3, 1, 2)
        patches = feature[:, self.extra_tokens :]
        count = patches.shape[1]
        height, width = self.height, self.width
        if height * width != count:
            height = max(1, round((count * self.height / self.width) ** 0.5))
            width = count // height
            if height * width != count:
                raise ValueError(
                    f"stage {self.index} ({self.tap}): {count} patch tokens do not form a grid of the aspect ratio "
                    f"{self.height}:{self.width} of the dry run; use one input aspect ratio for the run"
                )
        return patches.transpose(1, 2).reshape(feature.shape[0], self.channels, height, width)


_HEADER = ("#", "tap", "layout", "shape", "stride", "params", "post-ReLU")


def stage_table(stages: Sequence[Stage]) -> str:
    """Return an aligned table of stages: tap, layout, ``C x H x W`` (with extra tokens), stride, parameters, sign."""
    return aligned([_HEADER, *(_row(stage) for stage in stages)])


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows of cells as a text table, the first one as its header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _row(stage: Stage) -> tuple[str, ...]:
    extra = f" + {stage.extra_tokens}" if stage.extra_tokens else ""
    return (
        str(stage.index),
        stage.tap,
        stage.layout,
        f"{stage.channels} x {stage.height} x {stage.width}{extra}",
        f"{stage.stride:.4g}",
        f"{stage.params:,}",
        "yes" if stage.post_relu else "no",
    )
