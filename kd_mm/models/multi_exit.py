"""An image classifier that predicts with the ensemble of its exits."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.models.heads import MultiLabelClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from kd_mm.losses.functional import full_precision
from kd_mm.registry import MODELS
from kd_mm.stages.recorder import StopForward
from kd_mm.stages.stage import Stage
from kd_mm.stages.tap import Tap, find_module
from kd_mm.utils.suggest import choice

#: How the logits of several exits are combined: mean of logits, mean of probabilities, or the deepest exit alone.
ENSEMBLES = ("logit_mean", "prob_mean", "last")


def combine_exits(
    logits: Sequence[Tensor], ensemble: str = "logit_mean", weights: Sequence[float] | None = None
) -> Tensor:
    """Combine the logits of several exits into logits ``(B, K)`` of their ensemble, float32 at least.

    Args:
        logits: ``(B, K)`` of each exit, shallow to deep.
        ensemble: ``"logit_mean"``: ``sum_i w_i z_i``; ``"prob_mean"``: ``log sum_i w_i softmax(z_i)``; ``"last"``.
        weights: ``w_i >= 0`` of at least these exits, normalised to a sum of 1; default: equal.
    """
    full = [full_precision(one) for one in logits]
    if ensemble == "last" or len(full) == 1:
        return full[-1]
    stack = torch.stack(full)
    share = stack.new_ones(len(full)) if weights is None else stack.new_tensor(list(weights)[: len(full)])
    share = (share / share.sum()).view(-1, 1, 1)
    if ensemble == "logit_mean":
        return (share * stack).sum(dim=0)
    return (F.log_softmax(stack, dim=-1) + share.log()).logsumexp(dim=0)


@MODELS.register_module()
class MultiExitClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier`` with exits after its stages; the head is the last exit.

    Predictions and ``tensor`` mode are those of the ensemble; training weights head and exits equally. Backbone, neck
    and head have the parameter names of a plain ``ImageClassifier``.

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
        ValueError: An option is out of range, there are no exits, a tap does not exist, or the head is multi-label.
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
        if not exits:
            raise ValueError("MultiExitClassifier has no exits; without any it is mmpretrain's ImageClassifier")
        if isinstance(self.head, MultiLabelClsHead):
            raise ValueError(
                f"MultiExitClassifier combines one softmax an exit, {type(self.head).__name__} has sigmoids"
            )
        if weights is not None and (len(weights) != len(exits) + 1 or min(weights) < 0 or not weights[0] > 0):
            raise ValueError(f"weights={list(weights)}: give one >= 0 for each of {len(exits)} exits and the head")
        if depth is not None and not 1 <= depth <= len(exits) + 1:
            raise ValueError(f"depth={depth}: give one of 1 to {len(exits) + 1}, or leave it out for all exits")
        self.ensemble, self.weights, self.depth = choice("ensemble", ensemble, ENSEMBLES), weights, depth
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
        with self._recording(depth) as logits:
            logits.append(self.head(self.extract_feat(inputs)))
        return logits

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Return the head's losses and ``loss_exit<i>`` of each exit, i from 1."""
        with self._recording() as exits:
            losses: dict[str, Tensor] = self.head.loss(self.extract_feat(inputs), data_samples)
        mixed = "gt_score" in data_samples[0]
        target = torch.stack([one.gt_score if mixed else one.gt_label.squeeze(0) for one in data_samples])
        for i, logits in enumerate(exits, 1):
            losses[f"loss_exit{i}"] = self.head.loss_module(logits, target, avg_factor=len(logits))
        return losses

    def predict(self, inputs: Tensor, data_samples: list[DataSample] | None = None, **kwargs: Any) -> list[DataSample]:
        """Return data samples with ``pred_score`` ``(K,)`` and ``pred_label`` of the ensemble."""
        scores = self(inputs).softmax(dim=1)
        samples = [one or DataSample() for one in data_samples or [None] * len(scores)]
        for sample, score in zip(samples, scores, strict=True):
            sample.set_pred_score(score).set_pred_label(score.argmax(dim=0, keepdim=True))
        return samples

    def _build_exit(self, config: Mapping[str, Any]) -> nn.Module:
        own = {key: value for key, value in config.items() if key != "stage"}
        if "rest" in own:
            own["rest"] = [find_module(self, Tap.parse(tap)) for tap in own["rest"]]
        return MODELS.build(own)

    @contextmanager
    def _recording(self, depth: int | None = None) -> Iterator[list[Tensor]]:
        """Yield a list that the exits append their logits to; stop the forward pass after ``depth`` of them."""
        self._recorded, self._stop_after = [], depth
        try:
            with suppress(StopForward):
                yield self._recorded
        finally:
            self._recorded = None

    def _run_exit(self, index: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._recorded is None:
            return
        stage = self.stages[index]
        tap = Tap.parse(stage.tap)
        feature = tap.select(output if tap.read_input is None else args[tap.read_input])
        self._recorded.append(self.exits[index](stage.to_map(feature)))
        if len(self._recorded) == self._stop_after:
            raise StopForward


def _stage(index: int, config: Mapping[str, Any]) -> Stage:
    tap = config.get("stage")
    if not tap or "type" not in config or not config.get("widths"):
        raise ValueError(
            f"exits[{index - 1}] needs stage, type, widths and num_classes, e.g. dict(stage='backbone.layer1', "
            "type='kd_mm.SepConvExit', widths=[16, 32, 64], num_classes=100)"
        )
    known = {"layout": "map", "height": 1, "width": 1, "stride": 1.0, "channels": config["widths"][0]}
    return Stage(index=index, **{**known, **({"tap": tap} if isinstance(tap, str) else tap)})
