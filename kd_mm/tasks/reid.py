"""Re-identification: logits where the identities of the test are not those of the training."""

from typing import Any

from torch import Tensor, nn

from kd_mm.registry import TASKS
from kd_mm.stages.tap import child
from kd_mm.tasks.classification import ClassificationTask


@TASKS.register_module()
class ReIDTask(ClassificationTask):
    """Re-identification with a :class:`kd_mm.models.BNNeckHead`, or any head whose ``bnneck`` gives the embedding.

    Stage logits are over the training identities ``(B, K)``; the loss of an exit is the head's identity
    loss alone, without the metric losses. Student and teacher share one list of identities, unless only embeddings are
    compared. The identities of the validation data are others, so there is nothing to compare stage logits with:
    teachers are scored on training images, and exits are not probed.
    """

    name = "reid"
    metric = "identity accuracy"
    closed_set = False
    free_losses = "embedding losses (recipes rkd and cosine)"

    def forward(self, model: nn.Module, inputs: Tensor) -> Any:
        """Run a network up to its identity logits."""
        network: Any = model
        return network.head(self.forward_features(network, inputs))

    def forward_features(self, model: nn.Module, inputs: Tensor) -> Any:
        return model.extract_feat(inputs, stage="neck")  # type: ignore[operator]


def is_reid_model(model: nn.Module) -> bool:
    """Return whether a network is one for re-identification: its head has a ``bnneck``."""
    return child(child(model, "head"), "bnneck") is not None
