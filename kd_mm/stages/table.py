"""Stages as text."""

from collections.abc import Sequence

from kd_mm.stages.stage import Stage

_HEADER = ("#", "tap", "layout", "shape", "stride", "params", "post-ReLU")


def stage_table(stages: Sequence[Stage]) -> str:
    """Return an aligned table of stages: tap, layout, ``C x H x W`` (with extra tokens), stride, parameters, sign."""
    rows = [_HEADER, *(_row(stage) for stage in stages)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
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
