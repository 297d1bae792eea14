"""How many images a step of the optimizer has, and whether the learning rate is meant for them."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner


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
        """Scale the learning rates by images a step over ``base_batch_size``; see the engine."""
        accumulated = _accumulated(self)
        if auto_scale_lr and auto_scale_lr.get("enable") and auto_scale_lr.get("base_batch_size") and accumulated > 1:
            base = auto_scale_lr["base_batch_size"]
            auto_scale_lr = {**auto_scale_lr, "base_batch_size": base / accumulated}
            self.logger.info(
                f"{accumulated} batches make a step: base_batch_size={base} means {base / accumulated:g} each"
            )
        super().scale_lr(optim_wrapper, auto_scale_lr)


def images_of_step(runner: Runner) -> int:
    """Return the images of one step of the optimizer: batch, accumulated batches and processes."""
    return _batch(runner) * _accumulated(runner) * int(runner.world_size)


def _batch(runner: Runner) -> int:
    loader = runner.train_dataloader
    return int(loader.batch_size or loader.batch_sampler.batch_size)


def _accumulated(runner: Runner) -> int:
    return int((runner.cfg.get("optim_wrapper") or {}).get("accumulative_counts") or 1)
