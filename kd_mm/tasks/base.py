"""The Task base: what differs between classification, detection and re-identification."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.losses import Loss
from kd_mm.losses.observation import DenseAssignment
from kd_mm.tasks.prediction_readers import Answer


class Task:
    """What the Distiller and its hooks ask about a task; the defaults suit networks that answer once an image."""

    #: Measure of an exit, as it is shown in logs.
    metric = "accuracy"
    #: What is counted where a network is scored.
    unit = "images"
    #: Whether the last stage gets an exit of its own beside the network's answer.
    exit_on_last = False
    #: Whether stage responses are independent sigmoids instead of a softmax.
    multilabel = False
    #: Whether exits answer for regions of an image, and take them as a second argument.
    regional = False
    #: Whether the regions are known only after the student has run.
    late = False
    #: Whether the network's own answer is comparable with the targets of the exits.
    answer_is_response = True
    #: Height and width in pixels of the dry run where nothing else says so.
    default_size = 224
    #: The config key of the number of classes, for messages.
    classes_key = "head.num_classes"
    #: Whether validation data have the classes of the training data, so that responses can be scored on them.
    closed_set = True
    #: Losses that need no common class list, for messages.
    free_losses = "feature losses (e.g. kd_mm.StageChannelLoss)"

    def bind(self, student: nn.Module, regional: bool) -> None:
        """Learn what the student is and whether its exits answer for regions of an image.

        Raises:
            ValueError: They do, and the task has no regions.
        """
        if regional:
            raise ValueError(f"{type(self).__name__}: exits that answer for regions belong to detection")

    def check_losses(self, losses: Mapping[str, Loss]) -> None:
        """Refuse losses that make no sense for the task; called before any network is measured.

        Args:
            losses: By name.

        Raises:
            ValueError: With the reason and what to take instead.
        """

    def trunk(self, model: nn.Module) -> str:
        """Return the name of the submodule whose stages are looked for."""
        return "backbone" if hasattr(model, "backbone") else "model"

    def answer(self, model: nn.Module, student: bool) -> Answer:
        """Return how the network's own answer is read.

        Raises:
            ValueError: The network has no answer that a loss could read.
        """
        raise NotImplementedError

    def tail(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return what makes the network's own answer ``(B, K)`` of a map ``(B, C, H, W)`` of its last stage.

        Raises:
            ValueError: The network has no single answer an image.
        """
        raise ValueError(
            f"{type(self).__name__}: a loss of this recipe reads the teachers' classifiers, which answer once an image "
            "in classification and re-identification alone"
        )

    def extra_taps(self, model: nn.Module) -> tuple[str, ...]:
        """Return taps of the student that the targets need."""
        return ()

    def as_deployed(self, model: nn.Module, taken: Mapping[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
        """Return what the taps of a student in training showed, one row of each map an image of ``inputs``."""
        return dict(taken)

    def num_classes(self, model: nn.Module, answer: Tensor | None) -> int | None:
        """Return K, from the network or from its measured answer; ``None`` where neither says."""
        return None if answer is None else int(answer.shape[-1])

    def exit_width(self, num_classes: int) -> int:
        """Return the number of logits of an exit."""
        return num_classes

    def targets(self, data_samples: Sequence[Any], taken: Mapping[str, Tensor] | None = None) -> Any:
        """Return what exits are compared with; ``len()`` of it is the number of answers of one exit.

        Args:
            data_samples: Annotations of a batch.
            taken: What the student's taps showed in this step, where it has run already.
        """
        raise NotImplementedError

    def indices(self, data_samples: Sequence[Any]) -> Tensor:
        """Return the position of each sample in the training data, ``(B,)`` int64 on the CPU.

        Raises:
            ValueError: The data samples do not say it.
        """
        found = [sample.get("sample_idx") for sample in data_samples]
        if any(index is None for index in found):
            raise ValueError(
                "the data samples carry no sample_idx, which a loss of this recipe reads: name it among the meta_keys "
                "of the transform that packs the inputs"
            )
        return torch.tensor([int(index) for index in found])

    def valid_classes(self, targets: Any) -> Tensor | None:
        """Return ``(B, K)``, 0 where a class does not count in an image; ``None``: all count."""
        return None

    def recording(self, student: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which the student computes its own losses, for what no tap records."""
        return nullcontext()

    def assignment(self, student: nn.Module, batch: int) -> DenseAssignment | None:
        """Return the targets that the student's head assigned in this step, where it is a dense detection head."""
        return None

    def exit_loss(self, model: nn.Module, logits: Tensor, targets: Any) -> Tensor:
        """Return the task loss of an exit's logits, a scalar."""
        raise NotImplementedError

    def correct(self, logits: Tensor, targets: Any) -> Tensor:
        """Return how right each answer is, ``(len(targets),)`` in [0, 1]."""
        raise NotImplementedError

    def forward_features(self, model: nn.Module, inputs: Tensor) -> Any:
        """Run a network up to and including its backbone and neck."""
        return model.extract_feat(inputs)  # type: ignore[operator]

    def forward(self, model: nn.Module, inputs: Tensor) -> Any:
        """Run a whole network: no losses, no post-processing."""
        raise NotImplementedError

    def infer(self, model: nn.Module, inputs: Tensor) -> Any:
        """Run a network as it is deployed, for counting what it costs."""
        return model(inputs, mode="tensor")

    def score(self, model: nn.Module, inputs: Tensor, data_samples: Sequence[Any]) -> tuple[int, int]:
        """Return how many answers of a network on a validation batch are right, and how many there are."""
        raise NotImplementedError

    def chance(self, num_classes: int) -> float:
        """Return the score of guessing, a fraction."""
        return 1.0 / num_classes
