"""Runs convolutions in the memory format that CPUs, and GPUs in half precision, are fastest in."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from kd_mm.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keeps the weights that are trained in ``channels_last``; maps follow the weights.

    Results are those of the plain format up to rounding, from the same initial weights. Not for networks with a 1x1
    convolution of stride 2 on fewer than 16 channels: on a CPU its gradient aborts the process in PyTorch 2.14 ("double
    free or corruption").
    """

    def before_train(self, runner: Runner) -> None:
        """Lay out the model and, where a training is resumed, the state of its optimizers."""
        runner.model.to(memory_format=torch.channels_last)
        wrapper = runner.optim_wrapper
        for each in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            for state in each.optimizer.state.values():
                # Fused optimizers go through weights and state as they lie in memory.
                maps = {key: value for key, value in state.items() if torch.is_tensor(value) and value.dim() == 4}
                state.update({key: value.contiguous(memory_format=torch.channels_last) for key, value in maps.items()})
