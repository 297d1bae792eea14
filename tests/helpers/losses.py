"""Losses of every method with deterministic parameters, and the observations that they read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from kd_mm import losses as L
from kd_mm.losses import Loss, LossContext, MultiTeacherLoss, Observation, StageLogits
from kd_mm.losses.dense_output import DenseOutput
from kd_mm.losses.functional import channel_deviations, full_precision
from kd_mm.losses.mag import Codes
from kd_mm.losses.observation import Connected, DenseAssignment
from kd_mm.tasks.targets import CellTargets

from .waves import fill_with_waves, wave

LABELS = torch.tensor([0, 3])
BOXES = ([[3.0, 2.0, 30.0, 20.0], [10.0, 10.0, 50.0, 47.9]], [[0.0, 0.0, 64.0, 48.0]])
WIDTHS = (5, 4, 6)
RATED = {"t1": 0.40, "t2": 0.50, "t3": 0.45}


def context(*channels: tuple[int, int], **more: Any) -> LossContext:
    """Return the context of stages with these widths (student, teacher)."""
    pairs = [(SimpleNamespace(channels=a), SimpleNamespace(channels=b)) for a, b in channels]
    return LossContext(pairs=pairs, num_classes=5, **more)  # type: ignore[arg-type]


def of_logits(student: Tensor, teacher: Tensor, labels: Any = None) -> tuple[Observation, Observation]:
    """Return observations of the networks' own logits, which are also those of the only stage."""
    return (
        Observation(stage_logits=StageLogits.of({1: student}), logits=student, targets=labels),
        Observation(stage_logits=StageLogits.of({1: teacher}), logits=teacher),
    )


def of_maps(student: Tensor, teacher: Tensor, **more: Any) -> tuple[Observation, Observation]:
    """Return observations of one map of each network, under every name of a map."""
    own, pooled = ({1: full_precision(one).flatten(2).mean(2)} if one.ndim == 4 else {} for one in (student, teacher))
    spread, spreads = ({1: channel_deviations(one)} if one.ndim == 4 else {} for one in (student, teacher))
    maps = {"features": {1: student}, "adapted": {1: student}, "taps": {"tap": student}}
    return (
        Observation(**maps, pooled=own, deviations=spread, **more),  # type: ignore[arg-type]
        Observation(features={1: teacher}, pooled=pooled, deviations=spreads, taps={"tap": teacher}),
    )


def of_stages(*logits: Tensor | Sequence[float], **more: Any) -> Observation:
    """Return an observation of stage logits, shallow to deep; a row of numbers is a batch of one sample."""
    tensors = [z if isinstance(z, Tensor) else torch.tensor([z], dtype=torch.float64) for z in logits]
    return Observation(stage_logits=StageLogits.of(dict(enumerate(tensors, 1))), logits=tensors[-1], **more)


# -- builders ------------------------------------------------------------------------------------------------------


def vid(**options: Any) -> L.VIDLoss:
    loss = L.VIDLoss(**options)
    loss.setup(context((3, 5)))
    loss.double()
    fill_with_waves(loss.regressors, 1.1, size=0.5)
    loss.scales["stage1"].data.copy_(wave(5, pace=2.1) + 1)
    return loss


MARGINS = [-0.7978845834732056, -0.2837011218070984, -2.0183207988739014, -0.30000001192092896, -0.32820528745651245]


def ofd(stages: int = 1) -> L.OFDLoss:
    """Return the loss as it is for teachers of five channels that are tapped at ``tap``."""
    loss = L.OFDLoss()
    loss.setup(context(*[(3, 5)] * stages))
    fill_with_waves(loss.connectors, 0.6, 0.2, 0.8)
    for i in range(1, stages + 1):
        loss._teacher_taps[i] = "tap"
        loss.register_buffer(f"margin{i}", torch.tensor(MARGINS))
    return loss.double()


def reviewkd(*channels: tuple[int, int], **options: Any) -> L.ReviewKDLoss:
    loss = L.ReviewKDLoss(teacher_maps="stage", **options)
    loss.setup(context(*channels))
    for k, block in enumerate(loss.double().blocks.values()):
        fill_with_waves(block, 0.7 + 0.31 * k, 0.13, 0.6)
    return loss


def fgd(student: int = 4, teacher: int = 4, **options: float) -> L.FGDLoss:
    loss = L.FGDLoss(**options)
    loss.setup(context((student, teacher)))
    block: Any = loss.double().blocks["stage1"]
    student_block, teacher_block = block.student, block.teacher
    parts = [(student_block.conv_mask, 1.2), (student_block.channel_add_conv, 1.3), (block.align, 1.1)]
    for module, pace in [*parts, (teacher_block.conv_mask, 1.4), (teacher_block.channel_add_conv, 1.5)]:
        fill_with_waves(module, pace, size=0.5)
    return loss


def mgd(student: int = 3, teacher: int = 5, **options: Any) -> L.MGDLoss:
    loss = L.MGDLoss(**options)
    loss.setup(context((student, teacher)))
    fill_with_waves(loss.double().blocks, 1.1, size=0.5)
    return loss


def fgd_targets(boxes: Sequence[Sequence[Sequence[float]]] = BOXES) -> SimpleNamespace:
    return SimpleNamespace(boxes=[torch.tensor(b, dtype=torch.float64).view(-1, 4) for b in boxes], shape=(48, 64))


def crd(samples: int | None = 12, **options: Any) -> L.CRDLoss:
    """Return the loss of maps with 3 and 5 channels."""
    loss = L.CRDLoss(**{"num_negatives": 6, "dims": 4, "num_samples": samples, **options})
    loss.setup(context((3, 5)))
    fill_with_waves(loss.embed, 1.1)
    if samples is not None:
        loss.bank.student.copy_(wave(samples, 4, pace=1.9, size=0.5))
        loss.bank.teacher.copy_(wave(samples, 4, pace=2.3, size=0.5))
    return loss


def codes() -> Codes:
    torch.manual_seed(0)
    return Codes(8, (3, 7), 5).double()


def mag(**options: Any) -> L.MAGLoss:
    loss = L.MAGLoss(code_dims=(3, 7), student_tap="tap", teacher_tap="tap", **options)
    torch.manual_seed(1)
    loss.setup(LossContext(num_classes=5, student_taps={"tap": (4, 6)}, teacher_taps={"tap": (4, 8)}))
    loss.double().load_preparation({"teacher": codes()})
    return loss


def mas(**options: Any) -> L.MASLoss:
    loss = L.MASLoss(code_dims=(3, 7), teacher_tap="tap", **options)
    loss.load_preparation({"teacher": codes()})
    return loss


def gpac(rated: Mapping[str, float], final: Mapping[str, float] | None = None, **options: Any) -> L.GPACAttentionLoss:
    """Return a loss whose probes reached these accuracies at stage 1."""
    loss = L.GPACAttentionLoss(**options)
    loss.teacher_names = tuple(rated)
    loss.match([None])  # type: ignore[list-item]
    loss.load_preparation(
        {name: {"stage1": accuracy, "final": (final or {}).get(name, 0.0)} for name, accuracy in rated.items()}
    )
    return loss


def exit_task(**options: Any) -> L.ExitTaskLoss:
    loss = L.ExitTaskLoss(**options)
    loss.setup(LossContext(exit_losses=cross_entropies))
    return loss


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each of N exits, logits ``(N, B, K)``."""
    rows = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="none")
    return rows.view(len(logits), -1).mean(dim=1)


def scd(*widths: int, **options: Any) -> L.StageChannelLoss:
    loss = L.StageChannelLoss(**options)
    loss.setup(context(*((width, width) for width in widths)))
    return loss.double()


def wkd_logits(classes: int, **options: Any) -> L.WKDLogitsLoss:
    """Return the loss of classes that are related by a classifier of three features."""
    loss = L.WKDLogitsLoss(**options)
    rows = torch.nn.functional.normalize(wave(classes, 3, pace=1.1), dim=1)
    loss.set_relations(rows @ rows.T)
    return loss


def det_kd(classes: int, **options: Any) -> L.DetKDLoss:
    loss = L.DetKDLoss(**options)
    loss.setup(LossContext(num_classes=classes))
    return loss


def embedding(kind: type[L.EmbeddingLoss], **options: Any) -> L.EmbeddingLoss:
    return kind(student_tap="tap", teacher_tap="tap", **options)


def classifier(width: int) -> Callable[[Tensor], Tensor]:
    """Return the last layers of a teacher: pooling and a linear map to 6 classes."""
    weight = wave(6, width, pace=0.3 + 0.1 * width, size=4.0)
    return lambda feature: feature.mean((2, 3)) @ weight.to(feature.dtype).T


# -- every loss ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A loss and what it compares.

    Attributes:
        build: Builds the loss, in double precision where it has parameters.
        student: Tensors of the student, float64.
        teacher: Tensors of the teacher.
        value: Value of the loss of tensors of the student and of the teacher.
        largest: Factor up to which the tensors may grow in bfloat16.
        constant_teacher: Whether the loss blocks the gradient to the teacher's tensors.
    """

    build: Callable[[], Loss]
    student: tuple[Tensor, ...]
    teacher: tuple[Tensor, ...]
    value: Callable[[Any, Sequence[Tensor], Sequence[Tensor]], Tensor]
    largest: float = 1e12
    constant_teacher: bool = True


def _logits(build: Callable[[], Loss], rows: int = 2) -> Case:
    def value(loss: Loss, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        return loss(*of_logits(student[0], teacher[0], LABELS))

    student, teacher = wave(rows, 4, pace=0.9, size=2.0), wave(rows, 4, pace=1.7, size=2.0)
    return Case(build, (student,), (teacher,), value, 1e4, constant_teacher=False)


def _dense(build: Callable[[], Loss], classes: int) -> Case:
    def value(loss: Loss, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        return loss(Observation(logits=student[0]), Observation(logits=teacher[0]))

    shape = (2, 3, classes)
    student, teacher = wave(*shape, pace=0.9, size=3.0), wave(*shape, pace=1.7, size=3.0)
    return Case(build, (student,), (teacher,), value, 1e30, constant_teacher=False)


def _stages(build: Callable[[], Loss]) -> Case:
    def value(loss: Loss, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        return loss(of_stages(*student, targets=LABELS), of_stages(*teacher))

    student = tuple(wave(2, 4, pace=pace, size=2.0) for pace in (0.9, 1.3, 0.5))
    teacher = tuple(wave(2, 4, pace=pace, size=2.0) for pace in (1.7, 1.1, 2.1))
    return Case(build, student, teacher, value, 1e4, constant_teacher=False)


def _cells(build: Callable[[], Loss]) -> Case:
    present = torch.zeros(2, 4, 2, 2)
    present[0, 1, 0, 0] = present[0, 2, 1] = 1
    counted = torch.ones(2, 2, 2)
    counted[1, 0, 1] = 0
    targets = SimpleNamespace(cells=lambda grid: CellTargets(present, counted))

    def value(loss: Loss, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        return loss(of_stages(*student, targets=targets), of_stages(*teacher))

    student, teacher = (
        tuple(wave(2, 4, 2, 2, pace=pace, size=2.0) for pace in paces) for paces in ((0.9, 1.3), (1.7, 1.1))
    )
    return Case(build, student, teacher, value, 1e4)


def _maps(build: Callable[[], Loss], width: int = 3, teacher_width: int = 5, size: tuple[int, int] = (4, 4)) -> Case:
    def value(loss: Loss, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        more = {"targets": fgd_targets()} if "student.targets" in loss.requires else {}
        return loss(*of_maps(student[0], teacher[0], **more))

    student, teacher = wave(2, width, *size, pace=0.9, size=2.0), wave(2, teacher_width, *size, pace=1.7) + 0.5
    return Case(build, (student,), (teacher,), value)


def _embeddings(build: Callable[[], Loss], width: int = 3, teacher_width: int = 4, largest: float = 1e12) -> Case:
    def value(loss: Loss, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        logits = wave(len(student[0]), 5, pace=1.1, size=3.0).to(student[0])
        observation = Observation(taps={"tap": student[0]}, logits=logits)
        if isinstance(loss, L.MAGLoss):
            loss.teacher_codes().to(full_precision(teacher[0]))
        return loss(observation, Observation(taps={"tap": teacher[0]}, logits=logits.flip(1)))

    student, teacher = wave(4, width, pace=0.9), wave(4, teacher_width, pace=1.7)
    return Case(build, (student,), (teacher,), value, largest)


def _teachers(build: Callable[[], MultiTeacherLoss], kind: str) -> Case:
    names, labels = ("t1", "t2", "t3"), torch.tensor([0, 5, 2, 3])

    def value(loss: MultiTeacherLoss, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        pairs = zip(names, teacher, strict=True)
        if kind == "logits":
            observation = Observation(logits=student[0], targets=labels)
            return loss(observation, {name: Observation(logits=z) for name, z in pairs})
        if kind == "attention":
            observation = Observation(features={1: student[0]})
            return loss(observation, {name: Observation(features={1: f}) for name, f in pairs})
        connected = {name: Connected({1: feature}) for name, feature in zip(names, student, strict=True)}
        teachers = {name: Observation(features={1: f}, classifier=classifier(f.shape[1])) for name, f in pairs}
        return loss(Observation(connected=connected, targets=labels), teachers)

    if kind == "logits":
        teacher = tuple(wave(4, 6, pace=pace, size=3.0) for pace in (1.7, 1.1, 2.3))
        return Case(build, (wave(4, 6, pace=0.9, size=2.0),), teacher, value, 5e3, constant_teacher=False)
    teacher = tuple(wave(4, width, 2, 2, pace=pace) for width, pace in zip(WIDTHS, (1.7, 1.1, 2.3), strict=True))
    maps = tuple(wave(4, w, 2, 2, pace=pace) for w, pace in zip(WIDTHS, (2.1, 1.5, 2.7), strict=True))
    return Case(build, maps[:1] if kind == "attention" else maps, teacher, value)


def _mas(loss: L.MASLoss, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    observation, (logits, feature) = Observation(logits=student[0]), teacher
    loss.teacher_codes().to(full_precision(feature))
    return loss(observation, Observation(logits=logits, taps={"tap": feature}))


def _crd(loss: L.CRDLoss, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    torch.manual_seed(0)
    loss.bank.load_state_dict({**crd().bank.state_dict(), "log_normalizers": torch.zeros(2)})
    observation, teachers = of_maps(student[0], teacher[0], targets=LABELS, sample_indices=torch.tensor([3, 8]))
    return loss(observation, teachers)


def _byot(loss: Loss, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    return loss(Observation(features={1: student[0], 2: teacher[0]}, embeddings={1: student[0].mean((2, 3))}))


def _crosskd(loss: L.CrossKDLoss, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    counted = torch.tensor([[1, 1, 0], [1, 0, 1]], dtype=torch.float64)
    assignment = DenseAssignment(counted, torch.tensor([[True, False, False], [False, False, True]]), 3.0)
    crossed = DenseOutput(student[0], student[1], full_precision, student[2], assignment)
    terms = loss.compare(crossed, DenseOutput(teacher[0], teacher[1], full_precision, teacher[2]))
    return torch.stack(list(terms.values())).sum()


def _ld(loss: L.LDLoss, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    # The student's scores weight positions and are no part of the gradient.
    positive = torch.tensor([[True, False, False], [False, False, True]])
    counted = torch.tensor([[1, 1, 1], [1, 0, 1]]).to(full_precision(teacher[0]))
    assignment = DenseAssignment(counted, positive, 3.0)
    anchors = [torch.tensor([[20.0, 20.0, 52.0, 52.0], [30.0, 30.0, 62.0, 62.0], [44.0, 44.0, 76.0, 76.0]])]
    own = DenseOutput(wave(2, 3, 3, pace=0.4).to(counted), student[1], full_precision, None, assignment)
    target = DenseOutput(teacher[0], teacher[1], full_precision)
    return torch.stack(list(loss.compare(own, target, anchors, [anchors[0][:1], anchors[0][2:]]).values())).sum()


def _mgd(loss: L.MGDLoss, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    torch.manual_seed(0)
    return loss(*of_maps(student[0], teacher[0]))


def corners(pace: float, count: int = 3) -> Tensor:
    """Return boxes of two images."""
    centre, half = wave(2, count, 2, pace=pace, size=20.0) + 40, wave(2, count, 2, pace=pace + 0.4, size=6.0) + 12
    return torch.cat([centre - half, centre + half], dim=-1)


def _heads(bins: bool) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    regs = [wave(2, 3, 20, pace=p, size=2.0) if bins else corners(p) for p in (0.9, 1.1)]
    sides = zip((0.9, 1.7), (3.0, 2.0), regs, strict=True)
    student, teacher = ((wave(2, 3, 3, pace=p, size=s), reg, wave(2, 3, pace=p)) for p, s, reg in sides)
    return student, teacher


CASES: dict[str, Case] = {
    "kd": _logits(L.KDLoss),
    "kd-standardized": _logits(lambda: L.KDLoss(standardize=True)),
    "kd-multilabel": _logits(lambda: L.KDLoss(temperature=2.0, multilabel=True)),
    "dkd": _logits(L.DKDLoss),
    "dkd-standardized": _logits(lambda: L.DKDLoss(standardize=True)),
    "dist": _logits(lambda: L.DISTLoss(temperature=2.0)),
    "dist-standardized": _logits(lambda: L.DISTLoss(standardize=True)),
    "det_kd-regions": _logits(lambda: L.DetKDLoss(temperature=2.0)),
    "det_kd-grid": _dense(lambda: L.DetKDLoss(temperature=2.0), 3),
    "det_kd-quality": _dense(lambda: L.DetKDLoss(weighting="quality", gamma=0.0), 3),
    "det_kd-softmax": _dense(lambda: det_kd(3), 4),
    "srd": _stages(L.StageResponseLoss),
    "srd-standardized": _stages(lambda: L.StageResponseLoss(standardize=True)),
    "srd-final-multilabel": _stages(lambda: L.StageResponseLoss(target="final", multilabel=True)),
    "srd-dkd": _stages(lambda: L.StageResponseLoss(form="dkd")),
    "srd-dist": _stages(lambda: L.StageResponseLoss(form="dist")),
    "review": _stages(lambda: L.CrossStageReviewLoss(detach_target=False)),
    "review-ensemble": _stages(lambda: L.CrossStageReviewLoss(direction="ensemble", detach_target=False)),
    "review-bidirectional": _stages(
        lambda: L.CrossStageReviewLoss(direction="bidirectional", pairs="all_pairs", detach_target=False)
    ),
    "review-deeper": _stages(
        lambda: L.CrossStageReviewLoss(direction="deeper_mean_teacher", samples="agreement", detach_target=False)
    ),
    "review-right": _stages(
        lambda: L.CrossStageReviewLoss(direction="bidirectional", samples="right_and_surer", detach_target=False)
    ),
    # Weights are constants, so that the gradient is not that of the value unless they are 1.
    "srd-cells": _cells(lambda: L.CellResponseLoss(temperature=2.0, gamma=0.0)),
    "review-cells": _cells(lambda: L.CellReviewLoss(gamma=0.0, detach_target=False)),
    "exit_task": _stages(lambda: exit_task(include_last=True)),
    "scd": _maps(lambda: scd(5), 5),
    "scd-gap_l2": _maps(lambda: scd(5, descriptor="gap_l2"), 5),
    "scd-se-l1": _maps(lambda: scd(5, descriptor="se", distance="l1"), 5),
    "scd-kl": _maps(lambda: scd(5, distance="kl", temperature=2.0), 5),
    "scd-gaussian": _maps(lambda: scd(5, descriptor="gaussian"), 5),
    "fitnets": _maps(L.FitNetsLoss, 5),
    "at": _maps(L.ATLoss),
    "vid": _maps(vid),
    "sp": _maps(L.SPLoss),
    "pkd": _maps(L.PKDLoss, 5),
    "pkd-objects": _maps(lambda: L.PKDLoss(object_share=0.5), 4, 4, (6, 8)),
    "cwd": _maps(lambda: L.CWDLoss(temperature=2.0), 5),
    "fgd": _maps(lambda: fgd(temperature=2.0), 4, 4, (6, 8)),
    "ofd": _maps(ofd),
    "reviewkd": _maps(lambda: reviewkd((3, 5))),
    "wkd-logits": _logits(lambda: wkd_logits(4)),
    "wkd-features": _maps(lambda: L.WKDFeatureLoss(grid=2), 5),
    "crd": Case(lambda: crd().double(), (wave(2, 3, 4, 4, pace=0.9),), (wave(2, 5, 4, 4, pace=1.7),), _crd),
    "byot": Case(L.BYOTHintLoss, (wave(2, 3, 4, 4, pace=0.9),), (wave(2, 3, 2, 2, pace=1.7),), _byot),
    "rkd-distance": _embeddings(lambda: embedding(L.RKDDistanceLoss)),
    "rkd-distance-normalized": _embeddings(lambda: embedding(L.RKDDistanceLoss, normalize=True)),
    "rkd-angle": _embeddings(lambda: embedding(L.RKDAngleLoss)),
    "cosine": _embeddings(lambda: embedding(L.CosineLoss), 4),
    "mag": _embeddings(mag, 6, 8, 1e4),
    **{
        f"mas-{space}": Case(
            lambda space=space: mas(stable_space=space).double(),
            (wave(4, 5, pace=0.7, size=2.0),),
            (wave(4, 5, pace=1.1, size=3.0), wave(4, 8, pace=1.7)),
            _mas,
            1e4,
            constant_teacher=False,
        )
        for space in ("logit", "prob")
    },
    "gpac": _teachers(lambda: gpac(RATED, selection="soft"), "attention"),
    "gpac-l1": _teachers(lambda: gpac(RATED, selection="topk", distance="l1"), "attention"),
    "gpac-kl": _teachers(lambda: gpac(RATED, distance="kl"), "attention"),
    "multi_teacher_feature": _teachers(L.MultiTeacherFeatureLoss, "maps"),
    "multi_teacher_feature-mean": _teachers(lambda: L.MultiTeacherFeatureLoss(weights="mean"), "maps"),
    **{
        f"multi_teacher_kd-{rule}": _teachers(lambda rule=rule: L.MultiTeacherKDLoss(rule, detach=False), "logits")
        for rule in ("mean", "ca_mkd", "softmax", "inverse", "cosine")
    },
    "crosskd-giou": Case(lambda: L.CrossKDLoss(quality_weight=1.0), *_heads(False), _crosskd, 1e30),
    "crosskd-iou": Case(lambda: L.CrossKDLoss(box="iou"), *_heads(False), _crosskd, 1e30),
    "ld-kl": Case(L.LDLoss, *_heads(True), _ld, 1e30),
    "ld-giou": Case(lambda: L.LDLoss("giou"), *_heads(False), _ld, 1e30),
    "ld-l1": Case(lambda: L.LDLoss("l1"), *_heads(False), _ld, 1e30),
    "mgd": Case(mgd, (wave(2, 3, 4, 4, pace=0.9),), (wave(2, 5, 4, 4, pace=1.7),), _mgd),
    "crosskd-kl": Case(lambda: L.CrossKDLoss(), *_heads(True), _crosskd, 1e30),
}
