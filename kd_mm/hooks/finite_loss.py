"""Ends a run whose loss is infinite or NaN."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from kd_mm.distillers.loss_monitor import NonFiniteLossError, describe_non_finite


class FiniteLossHook(Hook):
    """Ends any run at the first iteration that logs a loss which is infinite or NaN, before anything is saved.

    The engine reads each logged value in each iteration, so looking at it costs no further wait for the device. A
    Distiller hands out its terms once per logging interval and checks them itself at each.
    """

    priority = "HIGHEST"

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Look at the losses of the step.

        Raises:
            NonFiniteLossError: Naming the losses and the iteration.
        """
        losses = {name: value for name, value in (outputs or {}).items() if "loss" in name}
        bad = [name for name, value in losses.items() if not torch.as_tensor(value).detach().isfinite()]
        if bad:
            raise NonFiniteLossError(describe_non_finite(bad, runner.iter))
