"""A classifier that answers after several of its stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from kd_mm.models.exit_ensemble import ENSEMBLES, combine_exits
from kd_mm.registry import MODELS
from kd_mm.stages.recorder import StopForward
from kd_mm.stages.stage import Stage
from kd_mm.stages.tap import Tap, find_module


@MODELS.register_module()
class MultiExitClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier`` with exits after its stages; the head is the last exit.

    It answers by the ensemble of its exits or, with a threshold, leaves as soon as it is sure: the exits passed so far
    answer, and the deeper stages run on the other images of the batch alone. In ``tensor`` mode, the logits of the
    ensemble of its exits. In ``loss`` mode, the head's loss and that of each exit, equally. Backbone, neck and head
    have the names of a plain ``ImageClassifier``, so that either loads the other's checkpoint.

    Args:
        backbone: Config of any backbone.
        exits: Configs of :class:`kd_mm.stages.Exit`, shallow to deep, each with its place as ``stage``: a tap
            (``"backbone.layer1"``), or for tokens ``dict(tap=, layout=, height=, width=, extra_tokens=)`` as in
            :class:`kd_mm.stages.Stage`. An exit that copies the rest of the network has it as ``rest``, a list of taps.
        ensemble: ``"logit_mean"``, ``"prob_mean"`` or ``"last"``; see :func:`combine_exits`.
        weights: Of each exit and of the head, e.g. their accuracies on a validation split; default: all equal.
        threshold: Probability of the likeliest class from which an image leaves, in (0, 1]; None (default): never.
            With ``ensemble="last"`` each exit answers for itself.
        depth: Number of exits, from the shallowest, that answer; the network stops there. With ``ensemble="last"``
            that exit alone; None (default): all, the head the last. Not with a threshold.
        **kwargs: As for ``ImageClassifier`` (``neck``, ``head``, ``data_preprocessor`` ...).

    Raises:
        ValueError: An option out of range, no exits, or a place that does not exist.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        exits: Sequence[Mapping[str, Any]],
        ensemble: str = "logit_mean",
        weights: Sequence[float] | None = None,
        threshold: float | None = None,
        depth: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        self.ensemble, self.weights, self.threshold, self.depth = ensemble, weights, threshold, depth
        self.stages = [_stage(i, config) for i, config in enumerate(exits, 1)]
        self._check()
        self.exits = nn.ModuleList(self._build(config) for config in exits)
        self._pass: _Pass | None = None
        for index, stage in enumerate(self.stages):
            find_module(self, Tap.parse(stage.tap)).register_forward_hook(_Junction(self, index))

    @property
    def num_exits(self) -> int:
        """Return the number of answers, the head's included."""
        return len(self.exits) + 1

    def _check(self) -> None:
        if not self.stages:
            raise ValueError("MultiExitClassifier has no exits; without any it is mmpretrain's ImageClassifier")
        if self.ensemble not in ENSEMBLES:
            raise ValueError(f"ensemble={self.ensemble!r} is unknown; choose one of {', '.join(map(repr, ENSEMBLES))}")
        if self.weights is not None and (
            len(self.weights) != len(self.stages) + 1 or min(self.weights) < 0 or not self.weights[0] > 0
        ):
            raise ValueError(
                f"weights={list(self.weights)}: give one for each of {len(self.stages)} exits and one for the head, "
                "none below 0, the first above"
            )
        if self.depth is not None and not 1 <= self.depth <= len(self.stages) + 1:
            raise ValueError(
                f"depth={self.depth}: give one of 1 to {len(self.stages) + 1}, or leave it out for all exits"
            )
        if self.threshold is None:
            return
        if self.depth is not None:
            raise ValueError(f"depth={self.depth} and threshold={self.threshold}: give one of them")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} is a probability: give one above 0, up to 1")
        for stage in self.stages:
            tap = Tap.parse(stage.tap)
            if tap.items or tap.read_input is not None or tap.call != -1:
                raise ValueError(
                    f"threshold={self.threshold}: images can leave only after a module that gives one tensor, not at "
                    f"{stage.tap!r}; name such a module as the exit's stage, or leave the threshold out"
                )

    def _build(self, config: Mapping[str, Any]) -> nn.Module:
        own = {key: value for key, value in config.items() if key != "stage"}
        if "rest" in own:
            own["rest"] = [find_module(self, Tap.parse(tap)) for tap in own["rest"]]
        return MODELS.build(own)

    # -- modes ---------------------------------------------------------------------------------------------------

    def forward(self, inputs: Tensor, data_samples: list[DataSample] | None = None, mode: str = "tensor") -> Any:
        """Return logits ``(B, K)`` of the ensemble in ``tensor`` mode; losses or data samples otherwise.

        Args:
            inputs: ``(B, 3, H, W)``, normalised.
            data_samples: Annotations.
            mode: ``"tensor"``, ``"predict"`` or ``"loss"``.
        """
        if mode == "tensor":
            return combine_exits(self.answers(inputs, self.depth), self.ensemble, self.weights)
        return super().forward(inputs, data_samples, mode)

    def answers(self, inputs: Tensor, depth: int | None = None) -> list[Tensor]:
        """Return the logits ``(B, K)`` of each exit, shallow to deep, the head's last.

        Args:
            inputs: ``(B, 3, H, W)``, normalised.
            depth: Number of answers after which the network stops; default: all.
        """
        with self._passing(_Pass(depth=depth)) as run, suppress(StopForward):
            features = self.extract_feat(inputs)
            run.answers.append(self.head(features))
        return run.answers

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Return the head's losses and ``loss_exit<i>`` of each exit, i from 1."""
        with self._passing(_Pass()) as run:
            features = self.extract_feat(inputs)
        losses: dict[str, Tensor] = dict(self.head.loss(features, data_samples))
        if "gt_score" in data_samples[0]:
            target = torch.stack([sample.gt_score for sample in data_samples])
        else:
            target = torch.cat([sample.gt_label for sample in data_samples])
        for i, logits in enumerate(run.answers, 1):
            losses[f"loss_exit{i}"] = self.head.loss_module(logits, target, avg_factor=len(logits))
        return losses

    def predict(self, inputs: Tensor, data_samples: list[DataSample] | None = None, **kwargs: Any) -> list[DataSample]:
        """Return data samples with ``pred_score`` ``(K,)``, ``pred_label``, and what :class:`kd_mm.ExitMetric` reads.

        That is ``left_at``, the exit that an image left at, from 1 (the head is the last); without a threshold also
        ``exit_labels`` ``(N,)``, the likeliest class at each exit.
        """
        if self.threshold is None:
            answers = self.answers(inputs, self.depth)
            scores = combine_exits(answers, self.ensemble, self.weights)
            left = torch.full((len(scores),), len(answers))
            labels = torch.stack([logits.argmax(dim=1) for logits in answers], dim=1)
        else:
            scores, left = self.leave_early(inputs, self.threshold)
        samples: list[DataSample] = self.head._get_predictions(scores, data_samples, **kwargs)
        for index, (sample, left_at) in enumerate(zip(samples, left.tolist(), strict=True)):
            sample.set_field(left_at, "left_at", dtype=int)
            if self.threshold is None:
                sample.set_field(labels[index], "exit_labels", dtype=Tensor)
        return samples

    def leave_early(self, inputs: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """Return logits ``(B, K)`` of the exits that each image passed, and where it left, ``(B,)`` from 1.

        Args:
            inputs: ``(B, 3, H, W)``, normalised.
            threshold: Probability of the likeliest class from which an image leaves.

        Raises:
            RuntimeError: The network behind an exit does not treat its images one by one.
        """
        run = _Pass(threshold=threshold, rows=torch.arange(len(inputs), device=inputs.device))
        with self._passing(run), suppress(StopForward):
            logits = self.head(self.extract_feat(inputs))
            assert run.rows is not None
            if len(logits) != len(run.rows):
                raise RuntimeError(
                    f"{type(self.backbone).__name__} gave {len(logits)} answers for the {len(run.rows)} images that "
                    "had not left; set threshold=None"
                )
            run.settle(combine_exits([*run.answers, logits], self.ensemble, self.weights), self.num_exits)
        return run.sorted()

    # -- stages --------------------------------------------------------------------------------------------------

    @contextmanager
    def _passing(self, run: _Pass) -> Iterator[_Pass]:
        self._pass = run
        try:
            yield run
        finally:
            self._pass = None

    def _arrive(self, index: int, args: tuple[Any, ...], output: Any) -> Any:
        """Answer at an exit; return the module's output for the images that go on, None for all."""
        run = self._pass
        if run is None or index >= len(self.exits):
            return None
        stage = self.stages[index]
        tap = Tap.parse(stage.tap)
        feature = tap.select(output if tap.read_input is None else args[tap.read_input])
        run.answers.append(self.exits[index](stage.to_map(feature)))
        if run.depth == len(run.answers):
            raise StopForward
        if run.threshold is None or run.rows is None:
            return None
        logits = combine_exits(run.answers, self.ensemble, self.weights)
        leaves = F.softmax(logits, dim=1).amax(dim=1) >= run.threshold
        if not leaves.any():
            return None
        run.settle(logits, index + 1, leaves)
        if not len(run.rows):
            raise StopForward
        return output[~leaves]


@dataclass
class _Pass:
    """One forward pass.

    Attributes:
        answers: Logits of the exits so far, of the images that have not left.
        depth: Number of answers after which it ends.
        threshold: Probability from which an image leaves.
        rows: Positions in the batch of the images that have not left.
        settled: Positions, logits and exit of those that have.
    """

    answers: list[Tensor] = field(default_factory=list)
    depth: int | None = None
    threshold: float | None = None
    rows: Tensor | None = None
    settled: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)

    def settle(self, logits: Tensor, left_at: int, leaves: Tensor | None = None) -> None:
        """Let images leave with their logits; all by default."""
        assert self.rows is not None
        if leaves is None:
            leaves = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        self.settled.append((self.rows[leaves], logits[leaves], left_at))
        self.rows = self.rows[~leaves]
        self.answers = [answer[~leaves] for answer in self.answers]

    def sorted(self) -> tuple[Tensor, Tensor]:
        """Return the logits and exits of all images, in the order of the batch."""
        order = torch.cat([rows for rows, _, _ in self.settled]).argsort()
        left = torch.cat([torch.full_like(rows, left_at) for rows, _, left_at in self.settled])
        return torch.cat([logits for _, logits, _ in self.settled])[order], left[order]


class _Junction:
    """A picklable, deep-copyable forward hook: a copied network answers with its own exits."""

    def __init__(self, network: MultiExitClassifier, index: int) -> None:
        self.network, self.index = network, index

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return self.network._arrive(self.index, args, output)


def _stage(index: int, config: Mapping[str, Any]) -> Stage:
    place = config.get("stage")
    if not place or "type" not in config or not config.get("widths"):
        raise ValueError(
            f"exits[{index - 1}] needs stage, type, widths and num_classes, e.g. dict(stage='backbone.layer1', "
            "type='kd_mm.SepConvExit', widths=[16, 32, 64], num_classes=100)"
        )
    known = {"layout": "map", "height": 1, "width": 1, "stride": 1.0, "channels": config["widths"][0]}
    return Stage(index=index, **{**known, **({"tap": place} if isinstance(place, str) else place)})
