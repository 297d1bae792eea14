"""An image classifier that predicts with the ensemble of its exits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from kd_mm.registry import MODELS
from kd_mm.stages.recorder import StopForward
from kd_mm.stages.stage import Stage
from kd_mm.stages.tap import Tap, find_module

#: How the logits of several exits are combined: mean of logits, mean of probabilities, or the deepest exit alone.
ENSEMBLES = ("logit_mean", "prob_mean", "last")


def combine_exits(
    logits: Sequence[Tensor], ensemble: str = "logit_mean", weights: Sequence[float] | None = None
) -> Tensor:
    """Combine the logits of several exits into logits ``(B, K)`` of their ensemble, float32 at least.

    ``"logit_mean"``: ``sum_i w_i z_i``; ``"prob_mean"``: ``log sum_i w_i softmax(z_i)``, whose softmax is the mean of
    the probabilities. An exit with logits of large scale dominates the first, not the second.

    Args:
        logits: ``(B, K)`` of each exit, shallow to deep.
        ensemble: One of :data:`ENSEMBLES`.
        weights: ``w_i >= 0`` of at least these exits, normalised to a sum of 1; default: equal.

    Raises:
        ValueError: The ensemble is unknown.
    """
    _check_ensemble(ensemble)
    full = [one.float() if one.dtype in (torch.float16, torch.bfloat16) else one for one in logits]
    if ensemble == "last" or len(full) == 1:
        return full[-1]
    stack = torch.stack(full)
    share = stack.new_ones(len(full)) if weights is None else stack.new_tensor(list(weights)[: len(full)])
    share = (share / share.sum()).view(-1, *[1] * (stack.ndim - 1))
    if ensemble == "logit_mean":
        return (share * stack).sum(dim=0)
    return (F.log_softmax(stack, dim=-1) + share.log()).logsumexp(dim=0)


@MODELS.register_module()
class MultiExitClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier`` with exits after its stages; the head is the last exit.

    Predictions and ``tensor`` mode are those of the ensemble. In ``loss`` mode the head and the exits are trained with
    equal weights. Backbone, neck and head have the parameter names of a plain ``ImageClassifier``.

    Args:
        backbone: Config of a backbone.
        exits: Configs of :class:`kd_mm.models.exits.Exit`, shallow to deep, each with the stage that it reads as
            ``stage``: a tap (``"backbone.layer1"``), or for tokens ``dict(tap=, layout=, height=, width=,
            extra_tokens=)`` as in :class:`kd_mm.stages.Stage`. ``rest`` lists the taps of the deeper stages for an exit
            that copies them.
        ensemble: ``"logit_mean"``, ``"prob_mean"`` or ``"last"``; see :func:`combine_exits`.
        weights: Of each exit and of the head; default: equal.
        depth: Use the first ``depth`` exits and run the network no deeper; default: all, with the head as the last.
        **kwargs: As for ``ImageClassifier`` (``neck``, ``head``, ``data_preprocessor`` ...).

    Raises:
        ValueError: An option is out of range, there are no exits, or a tap does not exist.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        exits: Sequence[Mapping[str, Any]],
        ensemble: str = "logit_mean",
        weights: Sequence[float] | None = None,
        depth: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, **kwargs)
        _check_options(len(exits), ensemble, weights, depth)
        self.ensemble, self.weights, self.depth = ensemble, weights, depth
        self.stages = [_stage(i, config) for i, config in enumerate(exits, 1)]
        self.exits = nn.ModuleList(self._build_exit(config) for config in exits)
        self._recorded: list[Tensor] | None = None
        self._stop_after: int | None = None
        for index, stage in enumerate(self.stages):
            # A partial of a bound method is copied and pickled with the network, and then refers to the copy.
            find_module(self, Tap.parse(stage.tap)).register_forward_hook(partial(self._run_exit, index))

    def forward(self, inputs: Tensor, data_samples: list[DataSample] | None = None, mode: str = "tensor") -> Any:
        """Return logits ``(B, K)`` of the ensemble in ``tensor`` mode; losses or data samples otherwise."""
        if mode == "tensor":
            return combine_exits(self.exit_logits(inputs, self.depth), self.ensemble, self.weights)
        return super().forward(inputs, data_samples, mode)

    def exit_logits(self, inputs: Tensor, depth: int | None = None) -> list[Tensor]:
        """Return the logits ``(B, K)`` of the first ``depth`` exits, default all, shallow to deep, the head last."""
        logits: list[Tensor] = []
        self._recorded, self._stop_after = logits, depth
        try:
            with suppress(StopForward):
                logits.append(self.head(self.extract_feat(inputs)))
        finally:
            self._recorded = None
        return logits

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Return the head's losses and ``loss_exit<i>`` of each exit, i from 1."""
        *exits, head = self.exit_logits(inputs)
        losses: dict[str, Tensor] = dict(self.head._get_loss(head, data_samples))
        for i, logits in enumerate(exits, 1):
            losses[f"loss_exit{i}"] = self.head._get_loss(logits, data_samples)["loss"]
        return losses

    def predict(self, inputs: Tensor, data_samples: list[DataSample] | None = None, **kwargs: Any) -> list[DataSample]:
        """Return data samples with ``pred_score`` ``(K,)`` and ``pred_label`` of the ensemble."""
        samples: list[DataSample] = self.head._get_predictions(self(inputs), data_samples, **kwargs)
        return samples

    def _build_exit(self, config: Mapping[str, Any]) -> nn.Module:
        own = {key: value for key, value in config.items() if key != "stage"}
        if "rest" in own:
            own["rest"] = [find_module(self, Tap.parse(tap)) for tap in own["rest"]]
        return MODELS.build(own)

    def _run_exit(self, index: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._recorded is None:
            return
        stage = self.stages[index]
        tap = Tap.parse(stage.tap)
        feature = tap.select(output if tap.read_input is None else args[tap.read_input])
        self._recorded.append(self.exits[index](stage.to_map(feature)))
        if len(self._recorded) == self._stop_after:
            raise StopForward


def _check_options(exits: int, ensemble: str, weights: Sequence[float] | None, depth: int | None) -> None:
    if not exits:
        raise ValueError("MultiExitClassifier has no exits; without any it is mmpretrain's ImageClassifier")
    _check_ensemble(ensemble)
    if weights is not None and (len(weights) != exits + 1 or min(weights) < 0 or not weights[0] > 0):
        raise ValueError(
            f"weights={list(weights)}: give one >= 0 for each of {exits} exits and the head, the first > 0"
        )
    if depth is not None and not 1 <= depth <= exits + 1:
        raise ValueError(f"depth={depth}: give one of 1 to {exits + 1}, or leave it out for all exits")


def _check_ensemble(ensemble: str) -> None:
    if ensemble not in ENSEMBLES:
        raise ValueError(f"ensemble={ensemble!r} is unknown; choose one of {', '.join(map(repr, ENSEMBLES))}")


def _stage(index: int, config: Mapping[str, Any]) -> Stage:
    tap = config.get("stage")
    if not tap or "type" not in config or not config.get("widths"):
        raise ValueError(
            f"exits[{index - 1}] needs stage, type, widths and num_classes, e.g. dict(stage='backbone.layer1', "
            "type='kd_mm.SepConvExit', widths=[16, 32, 64], num_classes=100)"
        )
    known = {"layout": "map", "height": 1, "width": 1, "stride": 1.0, "channels": config["widths"][0]}
    return Stage(index=index, **{**known, **({"tap": tap} if isinstance(tap, str) else tap)})
