"""The base of all tasks: what differs between classification, detection and re-identification."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_mm.losses import Loss
from kd_mm.losses.observation import DenseAssignment
from kd_mm.stages.tap import child
from kd_mm.tasks.prediction_readers import LogitsReader


@dataclass(frozen=True)
class Batch:
    """One training batch after the student's forward pass; fields that no loss requires are ``None``.

    Attributes:
        records: Recorded tensors of the student, tap text to tensor.
        targets: What the task loss compares with; see :attr:`kd_mm.losses.Observation.targets`.
        valid_classes: See :attr:`kd_mm.losses.Observation.valid_classes`.
        assignment: See :attr:`kd_mm.losses.Observation.assignment`.
        sample_indices: See :attr:`kd_mm.losses.Observation.sample_indices`.
        sampled: ``(S, 5)``, image index and box in pixels: what a two-stage student's own logits classify.
    """

    records: Mapping[str, Tensor]
    targets: Any = None
    valid_classes: Tensor | None = None
    assignment: DenseAssignment | None = None
    sample_indices: Tensor | None = None
    sampled: Tensor | None = None


class ExitScore(NamedTuple):
    """How good an exit is.

    Attributes:
        score: A fraction.
        chance: That of the best exit that always predicts the same.
        at_chance: Whether the score is not above chance.
    """

    score: float
    chance: float
    at_chance: bool


class TeacherScore(NamedTuple):
    """How good a teacher is.

    Attributes:
        scored: How many predictions were scored.
        score: A fraction.
        minimum: Less is at chance, by three standard deviations.
        chance: The score of guessing.
    """

    scored: int
    score: float
    minimum: float
    chance: float


class Task:
    """How networks of a task are run and read; the defaults suit networks with one row of logits an image."""

    #: Its name in :attr:`kd_mm.losses.Loss.tasks`.
    name = "classification"
    #: Measure of an exit, for logs.
    metric = "accuracy"
    #: What is counted where a network is scored.
    unit = "images"
    #: Whether the last stage gets an exit of its own beside the network's logits.
    exit_on_last = False
    #: What the exits classify (:attr:`kd_mm.models.Exit.output`).
    output = "image"
    #: Whether stage logits are independent sigmoids instead of a softmax.
    multilabel = False
    #: Whether the network's own logits are comparable with the targets of the exits.
    comparable_logits = True
    #: Height and width in pixels of the dry run where nothing else sets it.
    default_size = 224
    #: The config key of the number of classes, for messages.
    classes_key = "head.num_classes"
    #: Whether validation data have the classes of the training data, so that exits can be scored on them.
    closed_set = True
    #: Whether all classes of the data are one to the networks (region proposal networks).
    class_agnostic = False
    #: Whether a teacher that scores near chance stops a run whose losses do not read its logits, too.
    needs_trained_teacher = False
    #: Losses that need no common class list, for messages.
    free_losses = "feature losses (e.g. kd_mm.StageChannelLoss)"

    def setup(self, student: nn.Module, output: str) -> None:
        """Take note of the student and of what its exits classify (:attr:`kd_mm.models.Exit.output`).

        Raises:
            ValueError: Not the image, and the task has nothing else.
        """
        if output != "image":
            raise ValueError(f"{type(self).__name__}: exits that classify {output} belong to detection")

    def note_classes(self, num_classes: int) -> None:
        """Take note of K, as measured (0 where nothing reads logits); the default needs no note."""

    def check_losses(self, losses: Mapping[str, Loss]) -> None:
        """Refuse losses that make no sense for the task; called before any network is measured.

        Raises:
            ValueError: With the reason and what to take instead.
        """
        for name, loss in losses.items():
            if self.name not in loss.tasks:
                raise ValueError(f"loss {name!r} ({type(loss).__name__}) is not for {self.name}: {loss.instead}")

    # -- networks ------------------------------------------------------------------------------------------------

    def trunk(self, model: nn.Module) -> str:
        """Return the name of the submodule whose stages are looked for."""
        return "model" if child(model, "backbone") is None else "backbone"

    def logits_reader(self, model: nn.Module, student: bool) -> LogitsReader:
        """Return how the network's own logits are read.

        Raises:
            ValueError: The network has no logits that a loss could read.
        """
        raise NotImplementedError

    def incomparable(self, student: nn.Module, teacher: nn.Module) -> str:
        """Return why the own logits of two networks cannot be compared; empty where they can, as far as is known."""
        return ""

    def classifier(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the map from a feature map ``(B, C, H, W)`` of the last stage to the network's logits ``(B, K)``.

        Raises:
            ValueError: The network has no single row of logits an image.
        """
        raise ValueError(
            f"{type(self).__name__}: a loss of this recipe reads the teachers' classifiers, which have one row of "
            "logits an image in classification and re-identification alone"
        )

    def num_classes(self, model: nn.Module, logits: Tensor | None) -> int | None:
        """Return K, from the network or from its measured logits; ``None`` where neither states it."""
        return None if logits is None else int(logits.shape[-1])

    def exit_width(self, num_classes: int) -> int:
        """Return the number of logits of an exit."""
        return num_classes

    def forward_features(self, model: nn.Module, inputs: Tensor) -> Any:
        """Run a network up to and including its backbone and neck."""
        return model.extract_feat(inputs)  # type: ignore[operator]

    def forward(self, model: nn.Module, inputs: Tensor) -> Any:
        """Run a network to its end: no losses, no post-processing."""
        raise NotImplementedError

    def infer(self, model: nn.Module, inputs: Tensor) -> Any:
        """Run a network as it is deployed, for counting what it costs."""
        return model(inputs, mode="tensor")

    # -- a training step -----------------------------------------------------------------------------------------

    def recording(self, student: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which the student computes its own losses, for what no tap records."""
        return nullcontext()

    def batch(
        self,
        student: nn.Module,
        inputs: Tensor,
        data_samples: Sequence[Any],
        records: Mapping[str, Tensor],
        reads: Collection[str],
    ) -> Batch:
        """Return a batch after the student's forward pass, with what the losses read.

        Args:
            student: The student.
            inputs: ``(B, C, H, W)``.
            data_samples: Annotations.
            records: Recorded tensors of the student.
            reads: What the losses require (:data:`kd_mm.losses.base.READABLE`).
        """
        return Batch(
            records,
            targets=self.targets(data_samples) if "student.targets" in reads else None,
            sample_indices=self.sample_indices(data_samples) if "student.sample_indices" in reads else None,
        )

    def targets(self, data_samples: Sequence[Any], records: Mapping[str, Tensor] | None = None) -> Any:
        """Return what exits are compared with; ``len()`` of it is the number of rows of one exit.

        Args:
            data_samples: Annotations of a batch.
            records: Recorded tensors of the student in this step, if it has run.
        """
        raise NotImplementedError

    def sample_indices(self, data_samples: Sequence[Any]) -> Tensor:
        """Return the position of each sample in the training data, ``(B,)`` int64 on the CPU.

        Raises:
            ValueError: The data samples do not hold it.
        """
        found = [sample.get("sample_idx") for sample in data_samples]
        if any(index is None for index in found):
            raise ValueError(
                "the data samples carry no sample_idx, which a loss of this recipe reads: name it among the meta_keys "
                "of the transform that packs the inputs"
            )
        return torch.tensor([int(index) for index in found])

    def exit_losses(self, model: nn.Module, logits: Tensor, targets: Any) -> Tensor:
        """Return the task loss of each of N exits, ``(N,)``, of their logits ``(N, B, K)``."""
        raise NotImplementedError

    # -- scores --------------------------------------------------------------------------------------------------

    def correct(self, logits: Tensor, targets: Any) -> Tensor:
        """Return how right each row of logits is, ``(len(targets),)`` in [0, 1]."""
        raise NotImplementedError

    def constant_scores(self, targets: Any, width: int) -> Tensor:
        """Return the summed :meth:`correct` of exits that predict the same for every row.

        Args:
            targets: Of a batch.
            width: Number of logits of an exit.

        Returns:
            ``(D, A)``: D independent decisions a row, A alternatives each.
        """
        raise NotImplementedError

    def validation_targets(self, data_samples: Sequence[Any]) -> Any:
        """Return the targets of a validation batch, whose annotations may be in pixels of the original images."""
        return self.targets(data_samples)

    def tally(self, logits: Tensor, targets: Any) -> Tensor:
        """Return statistics of one exit's logits, which are added up over batches; see :meth:`measure`.

        Here ``(1 + D, A)``: the sum of :meth:`correct` and the number of rows, below :meth:`constant_scores`.
        """
        constant = self.constant_scores(targets, logits.shape[-1]).double()
        constant = F.pad(constant, (0, max(0, 2 - constant.shape[1])))
        counts = torch.stack([self.correct(logits, targets).sum().double(), constant.new_tensor(len(targets))])
        return torch.cat([F.pad(counts, (0, constant.shape[1] - 2))[None], constant])

    def measure(self, tally: Tensor) -> ExitScore:
        """Return how good an exit is; accuracies less than three standard deviations above chance are at chance.

        Args:
            tally: The sum of :meth:`tally` over the data.
        """
        right, rows = tally[0, 0].item(), max(tally[0, 1].item(), 1)
        score, chance = right / rows, tally[1:].amax(dim=1).sum().item() / rows
        margin = 3 * (chance * (1 - chance) / (rows * len(tally[1:]))) ** 0.5
        return ExitScore(score, chance, score < chance + margin)

    def score(self, model: nn.Module, inputs: Tensor, data_samples: Sequence[Any]) -> Tensor:
        """Return statistics of a network on a validation batch, on the CPU, which are added up; see :meth:`judge`.

        Here ``(2,)``: how many predictions are right, and how many there are.
        """
        raise NotImplementedError

    def judge(self, statistics: Tensor, num_classes: int) -> TeacherScore:
        """Return how good a teacher is.

        Args:
            statistics: The sum of :meth:`score` over the data.
            num_classes: K.
        """
        right, count = map(int, statistics)
        chance, rows = self.chance(num_classes), max(1, count)
        minimum = min(0.95, chance + 3 * (chance * (1 - chance) / rows) ** 0.5)
        return TeacherScore(count, right / rows, minimum, chance)

    def chance(self, num_classes: int) -> float:
        """Return the score of guessing, a fraction."""
        return 1.0 / num_classes
