"""The exit of re-identification: a batch norm before a classifier without bias."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from kd_mm.models.exits import SepConvExit
from kd_mm.models.reid.bnneck_head import BNNeck
from kd_mm.registry import MODELS


@MODELS.register_module()
class BNNeckExit(SepConvExit):
    """:class:`SepConvExit` whose classifier is that of a BNNeck head: batch norm without shift, linear without bias.

    Args:
        widths: See :class:`kd_mm.models.exits.Exit`.
        num_classes: K, training identities.
        **kwargs: See :class:`kd_mm.models.exits.SepConvExit`.
    """

    def __init__(self, widths: Sequence[int], num_classes: int, **kwargs: Any) -> None:
        super().__init__(widths, num_classes, **kwargs)
        self.fc = nn.Sequential(BNNeck(self.width), nn.Linear(self.width, num_classes, bias=False))

    def init_weights(self) -> None:
        """As the base class; the classifier is normal with standard deviation 0.001, as the head's."""
        super().init_weights()
        nn.init.normal_(self.fc[1].weight, std=0.001)  # type: ignore[index]
