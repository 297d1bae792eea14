"""Connectors: trainable maps from a student stage's channels to the teacher's."""

from mmengine.model import BaseModule, kaiming_init
from torch import Tensor, nn

from kd_mm.losses.base import choice
from kd_mm.registry import MODELS
from kd_mm.stages.stage import Stage


@MODELS.register_module()
class ConvConnector(BaseModule):
    """``phi``: convolution 1x1 without bias, batch norm, activation, as in Channel Distillation (Zhou et al. 2020).

    Args:
        student: The student's stage, measured.
        teacher: The teacher's stage, measured.
        policy: ``"always"``, or ``"on_mismatch"``: the identity where the channel counts agree. Equal widths of two
            independently trained networks have no common channel order, so the default is always.
        act: ``"auto"`` (ReLU where the teacher's stage ends in one, since a ReLU cannot reach negative targets),
            ``"relu"`` or ``"none"``.

    Raises:
        ValueError: An unknown option.
    """

    def __init__(self, student: Stage, teacher: Stage, policy: str = "always", act: str = "auto") -> None:
        super().__init__()
        choice("ConvConnector: policy", policy, ("always", "on_mismatch"))
        choice("ConvConnector: act", act, ("auto", "relu", "none"))
        self.body: nn.Module = nn.Identity()
        if policy == "always" or student.channels != teacher.channels:
            layers = [nn.Conv2d(student.channels, teacher.channels, 1, bias=False), nn.BatchNorm2d(teacher.channels)]
            if act == "relu" or (act == "auto" and teacher.post_relu):
                layers.append(nn.ReLU(inplace=True))
            self.body = nn.Sequential(*layers)

    def init_weights(self) -> None:
        """Kaiming normal (fan out) for the convolution, 1 and 0 for the norm."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kaiming_init(module)

    def forward(self, feature: Tensor) -> Tensor:
        """Map ``(B, C_s, H, W)`` to ``(B, C_t, H, W)``."""
        return self.body(feature)
