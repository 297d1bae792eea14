"""A network for re-identification: an image classifier that is deployed without its classifier."""

from typing import Any

from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor

from kd_mm.registry import MODELS
from kd_mm.stages.last_stride import set_last_stride


@MODELS.register_module()
class ReIDModel(ImageClassifier):
    """mmpretrain's ``ImageClassifier`` with two tricks of re-identification; its head is a :class:`BNNeckHead`.

    In ``tensor`` mode it gives the embedding that is deployed, ``(B, D)``, not logits.

    Args:
        backbone: Config of any backbone.
        last_stride: 1 takes the last halving of resolution out of a convolutional backbone (see
            :func:`kd_mm.stages.last_stride.set_last_stride`); None (default) leaves it as it is.
        flip_test: Whether the embedding is of the mean of image and mirror image before the batch norm of the head,
            which is the mean of both embeddings. Doubles the time.
        **kwargs: As for ``ImageClassifier`` (``neck``, ``head``, ``data_preprocessor`` ...).

    Raises:
        ValueError: ``last_stride`` is neither 1 nor None, or cannot be had for this backbone.
    """

    def __init__(
        self, backbone: dict[str, Any], last_stride: int | None = None, flip_test: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(backbone, **kwargs)
        if last_stride not in (1, None):
            raise ValueError(f"ReIDModel: last_stride must be 1 or None (as the backbone has it), got {last_stride!r}")
        if last_stride == 1:
            set_last_stride(self.backbone)
        self.flip_test = flip_test

    def forward(self, inputs: Tensor, data_samples: list[DataSample] | None = None, mode: str = "tensor") -> Any:
        """Return embeddings ``(B, D)`` in ``tensor`` mode; losses or data samples otherwise.

        Args:
            inputs: ``(B, C, H, W)``, normalised.
            data_samples: Annotations.
            mode: ``"tensor"``, ``"predict"`` or ``"loss"``.
        """
        if mode == "tensor":
            return self.extract_feat(inputs)
        return super().forward(inputs, data_samples, mode)

    def extract_feat(self, inputs: Tensor, stage: str = "pre_logits") -> Any:
        """Return embeddings ``(B, D)``, which are what is evaluated, as mmpretrain's ``FeatureExtractor`` does.

        Args:
            inputs: ``(B, C, H, W)``, normalised.
            stage: ``"pre_logits"``, or ``"backbone"`` or ``"neck"`` for their outputs.
        """
        if stage == "pre_logits":
            return self.head.pre_logits(self._pooled(inputs))
        return super().extract_feat(inputs, stage=stage)

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Return the losses of the head."""
        losses: dict[str, Tensor] = self.head.loss(self.extract_feat(inputs, stage="neck"), data_samples)
        return losses

    def predict(self, inputs: Tensor, data_samples: list[DataSample] | None = None, **kwargs: Any) -> list[DataSample]:
        """Return data samples with ``feature`` ``(D,)``."""
        return self.head.predict(self._pooled(inputs), data_samples, **kwargs)

    def _pooled(self, inputs: Tensor) -> tuple[Tensor, ...]:
        feats: tuple[Tensor, ...] = super().extract_feat(inputs)
        if self.flip_test:
            mirrored = super().extract_feat(inputs.flip(-1))
            feats = tuple((one + other) / 2 for one, other in zip(feats, mirrored, strict=True))
        return feats
