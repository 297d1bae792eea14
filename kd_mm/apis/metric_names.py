"""Which metrics an evaluation gives, found out before the training whose end they judge."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from kd_mm.hooks.random_state import capture_random_state, restore_random_state


def require(name: str, found: Mapping[str, float], where: str) -> float:
    """Return a metric.

    Raises:
        ValueError: There is none of this name; the message has the closest.
    """
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        raise ValueError(
            f"{where} gives no metric {name!r}{f', did you mean {near[0]!r}?' if near else ''} "
            f"(there are: {', '.join(sorted(found))})"
        )
    return found[name]


class MetricNamesHook(Hook):
    """Evaluates the first and the last validation image before training, for the names that come out.

    Where two images are too few to evaluate, as for a query without a match, nothing is known, and nothing said.

    Args:
        metrics: Names that the validation has to give.
    """

    priority = "VERY_HIGH"  # before anything is prepared on a teacher

    def __init__(self, metrics: Sequence[str]) -> None:
        self.metrics = metrics

    def before_train(self, runner: Runner) -> None:
        """Look for each name.

        Raises:
            ValueError: The validation gives no such metric.
        """
        found = _evaluate_two(runner)
        for name in self.metrics if found else ():
            require(name, found, "the validation")


def _evaluate_two(runner: Runner) -> dict[str, float]:
    random_state = capture_random_state()
    try:
        loader, evaluator = runner.val_loop.dataloader, copy.deepcopy(runner.val_loop.evaluator)
        batch = loader.collate_fn([loader.dataset[0], loader.dataset[len(loader.dataset) - 1]])
        runner.model.eval()
        with torch.no_grad():
            evaluator.process(data_samples=runner.model.val_step(batch), data_batch=batch)
        return dict(evaluator.evaluate(2))
    except Exception:  # whatever an evaluator makes of two images
        return {}
    finally:
        restore_random_state(random_state)
