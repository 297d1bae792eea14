"""bfloat16 training on any device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from torch import nn

from kd_mm.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(OptimWrapper):
    """Runs the forward pass under bfloat16 autocast; no loss scaling is needed.

    mmengine's ``AmpOptimWrapper`` refuses the CPU and always carries a gradient scaler.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enter autocast, and leave out gradient synchronisation while gradients accumulate."""
        with super().optim_context(model), torch.autocast(get_device(), dtype=torch.bfloat16):
            yield
