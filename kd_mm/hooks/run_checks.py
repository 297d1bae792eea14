"""What any training is checked for: finite losses, and the batch size that its rate is meant for."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from kd_mm.distillers.loss_monitor import NonFiniteLossError, describe_non_finite
from kd_mm.utils.contexts import unwrapped
from kd_mm.utils.suggest import join_first


class FiniteLossHook(Hook):
    """Ends any run at the first iteration that logs a loss which is infinite or NaN, before anything is saved.

    So it does where weights that would be saved are. The engine reads each logged value in each iteration, so looking
    at it costs no further wait for the device. A Distiller hands out its terms once per logging interval and checks
    them itself at each.
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

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Look at the weights, which the last step may have ruined without a loss after it.

        Raises:
            NonFiniteLossError: Naming those whose squares are no finite sum.
        """
        trained = {
            name: weight.detach() for name, weight in unwrapped(runner).named_parameters() if weight.requires_grad
        }
        sums = [weight.float().square().sum() for weight in trained.values()]
        finite = torch.stack(sums).isfinite().tolist() if sums else []
        if bad := [name for name, fine in zip(trained, finite, strict=True) if not fine]:
            raise NonFiniteLossError(
                f"iteration {runner.iter}: {len(bad)} of {len(trained)} weights are infinite, NaN or close to it "
                f"({join_first(bad)}); training stops, no checkpoint of this state was written: start anew or from an "
                "earlier one, with a lower learning rate or loss weight, or clip the gradient"
            )

    def after_train(self, runner: Runner) -> None:
        """Look at the weights where no checkpoint was written of them."""
        self.before_save_checkpoint(runner, {})


class BatchSizeHook(Hook):
    """Warns where a step has another number of images than the config's ``auto_scale_lr.base_batch_size``."""

    def before_train(self, runner: Runner) -> None:
        """Compare both, unless the learning rate is scaled."""
        scaling = runner.cfg.get("auto_scale_lr") or {}
        base, images = scaling.get("base_batch_size"), images_of_step(runner)
        if base and images != base and not scaling.get("enable", False):
            parts = f"{_batch(runner)} a batch, {_accumulated(runner)} accumulated, {runner.world_size} at a time"
            runner.logger.warning(
                f"a step has {images} images ({parts}), the learning rate of this config is meant for {base}: scale "
                "it, or use --auto-scale-lr"
            )


class ScalingRunner(Runner):
    """mmengine's Runner whose ``auto_scale_lr`` counts the batches that are accumulated for a step."""

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict | None = None) -> None:
        """Scale the learning rates by images a step over ``base_batch_size``; see the engine.

        Raises:
            ValueError: ``base_batch_size`` is no number above 0.
        """
        base, accumulated = (auto_scale_lr or {}).get("base_batch_size"), _accumulated(self)
        if auto_scale_lr and auto_scale_lr.get("enable"):
            if not isinstance(base, int | float) or base <= 0:
                raise ValueError(
                    f"auto_scale_lr.base_batch_size={base}: give the number of images that a step had where the "
                    "learning rate was chosen"
                )
            if accumulated > 1:
                auto_scale_lr = {**auto_scale_lr, "base_batch_size": base / accumulated}
                each = base / accumulated
                self.logger.info(f"{accumulated} batches make a step: base_batch_size={base} means {each:g} each")
        super().scale_lr(optim_wrapper, auto_scale_lr)


def images_of_step(runner: Runner) -> int:
    """Return the images of one step of the optimizer: batch, accumulated batches and processes."""
    return _batch(runner) * _accumulated(runner) * int(runner.world_size)


def _batch(runner: Runner) -> int:
    loader = runner.train_dataloader
    return int(loader.batch_size or loader.batch_sampler.batch_size)


def _accumulated(runner: Runner) -> int:
    return int((runner.cfg.get("optim_wrapper") or {}).get("accumulative_counts") or 1)
