"""Runs convolutions in the memory format that CPUs, and GPUs in half precision, are fastest in."""

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import nn

from kd_mm.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keeps the weights that are trained in ``channels_last``; maps follow the weights.

    Results are those of the plain format up to rounding, from the same initial weights.
    """

    def before_train(self, runner: Runner) -> None:
        """Lay out the model and, where a training is resumed, the state of its optimizers.

        Raises:
            ValueError: The network has a convolution whose gradient aborts the process.
        """
        for name, layer in runner.model.named_modules():
            pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and max(layer.stride) > 1
            # Observed with PyTorch 2.14 on 4, 8 and 12 channels ("double free or corruption"); 16 and more are right.
            if pointwise and layer.in_channels < 16 and layer.weight.is_cpu:
                raise ValueError(
                    f"ChannelsLastHook: {name} is a 1x1 convolution of stride {layer.stride} on {layer.in_channels} "
                    "channels, whose gradient aborts PyTorch on a CPU in channels_last below 16 channels: train "
                    "without this hook"
                )
        runner.model.to(memory_format=torch.channels_last)
        wrapper = runner.optim_wrapper
        for each in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            for state in each.optimizer.state.values():
                # Fused optimizers go through weights and state as they lie in memory.
                maps = {key: value for key, value in state.items() if torch.is_tensor(value) and value.dim() == 4}
                state.update({key: value.contiguous(memory_format=torch.channels_last) for key, value in maps.items()})
