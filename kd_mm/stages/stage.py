"""A stage, a named module of a network whose output is one resolution level, and the pairing of stages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from kd_mm.utils.suggest import nearest


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
        """Return the output of the tapped module as a map ``(B, C, H, W)``, whatever its layout, without class tokens.

        The grid is that of the feature itself where it has one, so inputs of another size than the dry run's work;
        for tokens the aspect ratio of the dry run is kept.
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


_ALIGNMENTS = ("from_deep", "from_shallow")


def pair_stages(
    student: Sequence[Stage], teacher: Sequence[Stage], align: str | Sequence[Sequence[int]] = "from_deep"
) -> list[tuple[Stage, Stage]]:
    """Match student stages with teacher stages and count the matched ones anew, 1 (shallow) to N (deep), on both sides.

    Args:
        student: Stages of the student, shallow to deep.
        teacher: Stages of the teacher, shallow to deep.
        align: ``"from_deep"`` matches last with last and drops surplus shallow ones, because deep stages carry the
            meaning; ``"from_shallow"`` matches first with first and drops surplus deep ones; else a list of pairs
            ``(student stage, teacher stage)``, counted from 1, shallow to deep.

    Raises:
        ValueError: An unknown word, a side without stages, or pairs out of range, repeated or out of order.
    """
    if not student or not teacher:
        side = "teacher" if student else "student"
        raise ValueError(f"nothing to pair: the {side} has no stages; name some in model.stages, or leave that out")
    pairs = list(zip(*_align(student, teacher, align), strict=True))
    return [(replace(s, index=index), replace(t, index=index)) for index, (s, t) in enumerate(pairs, 1)]


def _align(
    student: Sequence[Stage], teacher: Sequence[Stage], align: str | Sequence[Sequence[int]]
) -> tuple[Sequence[Stage], Sequence[Stage]]:
    count = min(len(student), len(teacher))
    if align == "from_deep":
        return student[-count:], teacher[-count:]
    if align == "from_shallow":
        return student[:count], teacher[:count]
    if isinstance(align, str):
        hint = f"{nearest(align, _ALIGNMENTS)}; write 'from_deep', 'from_shallow' or [(1, 1), ...]"
        raise ValueError(f"stage_align={align!r} is unknown{hint}")
    pairs = list(align) if isinstance(align, list | tuple) else []
    for pair in pairs:
        integers = isinstance(pair, list | tuple) and all(isinstance(i, int) and not isinstance(i, bool) for i in pair)
        if not integers or len(pair) != 2:
            raise ValueError(f"stage_align: {pair!r} is no pair (student stage, teacher stage), counted from 1")
    if not pairs:
        raise ValueError(f"stage_align={align!r} holds no pairs; write e.g. [(1, 1), (2, 2)]")
    columns = [[pair[side] for pair in pairs] for side in (0, 1)]
    for side, stages, column in (("student", student, columns[0]), ("teacher", teacher, columns[1])):
        for index in column:
            if not 1 <= index <= len(stages):
                raise ValueError(f"stage_align: the {side} has no stage {index}, only 1 to {len(stages)}")
        if any(later <= earlier for earlier, later in zip(column, column[1:], strict=False)):
            raise ValueError(f"stage_align: {side} stages {column} must go from shallow to deep, each once")
    return [student[index - 1] for index in columns[0]], [teacher[index - 1] for index in columns[1]]
