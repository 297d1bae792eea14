"""Which student stage is matched with which teacher stage (R1 and R2 of the method)."""

import difflib
from collections.abc import Sequence
from dataclasses import replace

from kd_mm.stages.stage import Stage

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
        raise ValueError(f"nothing to pair: the {'teacher' if student else 'student'} has no stages")
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
        near = difflib.get_close_matches(align, _ALIGNMENTS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"stage_align={align!r} is unknown; {hint}write 'from_deep', 'from_shallow' or [(1, 1), ...]")
    columns = _columns(align)
    for side, stages, column in (("student", student, columns[0]), ("teacher", teacher, columns[1])):
        for index in column:
            if not 1 <= index <= len(stages):
                raise ValueError(f"stage_align: the {side} has no stage {index}, only 1 to {len(stages)}")
        if any(later <= earlier for earlier, later in zip(column, column[1:], strict=False)):
            raise ValueError(f"stage_align: {side} stages {column} must go from shallow to deep, each once")
    return [student[index - 1] for index in columns[0]], [teacher[index - 1] for index in columns[1]]


def _columns(align: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    pairs = list(align) if isinstance(align, list | tuple) else []
    for pair in pairs:
        integers = isinstance(pair, list | tuple) and all(isinstance(i, int) and not isinstance(i, bool) for i in pair)
        if not integers or len(pair) != 2:
            raise ValueError(f"stage_align: {pair!r} is no pair (student stage, teacher stage), counted from 1")
    if not pairs:
        raise ValueError(f"stage_align={align!r} holds no pairs; write e.g. [(1, 1), (2, 2)]")
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
