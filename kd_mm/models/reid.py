"""Re-identification networks: batch norm neck, head, an exit that ends as the head does, the classifier."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.models.heads import ClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from kd_mm.models.exits import SepConvExit
from kd_mm.registry import MODELS
from kd_mm.stages.last_stride import set_last_stride

ID_LOSS = {"type": "mmpretrain.LabelSmoothLoss", "label_smooth_val": 0.1, "mode": "original"}
METRIC_LOSSES = {"triplet": {"type": "kd_mm.TripletLoss", "margin": 0.3}}
FC_INIT = {"type": "Normal", "layer": "Linear", "std": 0.001}


class BNNeck(nn.BatchNorm1d):
    """Batch norm without shift over embeddings ``(B, D)`` (Luo et al. 2019, arXiv 1903.07071, section 3.6).

    Without a shift the hyperplanes of a classifier without bias all pass through the origin, around which the
    normalised embeddings lie, so that cosine distance suits them.

    Args:
        num_features: D.
        **kwargs: As for torch's ``BatchNorm1d`` (``eps``, ``momentum``).
    """

    def __init__(self, num_features: int, **kwargs: Any) -> None:
        super().__init__(num_features, **kwargs)
        self.register_parameter("bias", None)

    def reset_parameters(self) -> None:
        """Set the scale to 1, running mean to 0 and running variance to 1."""
        self.reset_running_stats()
        nn.init.ones_(self.weight)


@MODELS.register_module()
class BNNeckHead(ClsHead):
    """Identity loss behind a batch norm, metric losses before it (bag of tricks, Luo et al. 2019, arXiv 1903.07071).

    A pooled embedding ``(B, D)`` goes to the metric losses as it is, and through :attr:`bnneck` to a classifier without
    bias over the K training identities. What :attr:`bnneck` gives is the embedding that is deployed, for cosine
    distance; the classifier is for training alone. The losses are logged as ``loss_id`` and ``loss_<name>``.

    Args:
        num_classes: K, training identities.
        in_channels: D.
        loss: Config of the identity loss. Default: cross-entropy with label smoothing 0.1.
        metric_losses: Configs of losses on embeddings ``(B, D)`` and identities ``(B,)`` by name. Default:
            :class:`TripletLoss` with margin 0.3. ``{}`` for none.
        init_cfg: Default: normal with standard deviation 0.001 for the classifier.
        **kwargs: As for mmpretrain's ``ClsHead`` (``topk``, ``cal_acc``).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        loss: dict[str, Any] = ID_LOSS,
        metric_losses: Mapping[str, dict[str, Any] | None] = METRIC_LOSSES,
        init_cfg: dict[str, Any] | None = FC_INIT,
        **kwargs: Any,
    ) -> None:
        super().__init__(loss=loss, init_cfg=init_cfg, **kwargs)
        self.num_classes, self.in_channels = num_classes, in_channels
        self.bnneck = BNNeck(in_channels)
        self.fc = nn.Linear(in_channels, num_classes, bias=False)
        self.metric_losses = nn.ModuleDict(
            {name: MODELS.build(config) for name, config in metric_losses.items() if config is not None}
        )

    def pre_logits(self, feats: Sequence[Tensor]) -> Tensor:
        """Return the embedding that is deployed, ``(B, D)``.

        Raises:
            ValueError: The network has no neck that pools.
        """
        if feats[-1].ndim != 2:
            raise ValueError(
                f"BNNeckHead takes pooled embeddings (B, D), got {tuple(feats[-1].shape)}: give the model a neck, e.g. "
                "neck=dict(type='mmpretrain.GlobalAveragePooling')"
            )
        return self.bnneck(feats[-1])

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Return identity logits ``(B, K)``."""
        return self.fc(self.pre_logits(feats))

    def loss(self, feats: Sequence[Tensor], data_samples: list[DataSample], **kwargs: Any) -> dict[str, Tensor]:
        """Return ``loss_id`` and the weighted metric losses.

        Args:
            feats: Embeddings; the last, ``(B, D)``, counts.
            data_samples: With ``gt_label``.
            **kwargs: For the identity loss.

        Raises:
            ValueError: Mixed images (mixup, CutMix), which have no one identity.
        """
        losses: dict[str, Tensor] = super().loss(feats, data_samples, **kwargs)
        losses = {"loss_id": losses.pop("loss"), **losses}
        if not self.metric_losses:
            return losses
        if "gt_score" in data_samples[0]:
            raise ValueError(
                "BNNeckHead: metric losses need one identity an image; drop model.train_cfg.augments (mixup, CutMix), "
                "or set metric_losses={}"
            )
        labels = torch.cat([sample.gt_label for sample in data_samples])
        for name, loss in self.metric_losses.items():
            losses[f"loss_{name}"] = loss(feats[-1], labels)
        return losses

    def predict(
        self, feats: Sequence[Tensor], data_samples: Sequence[DataSample | None] | None = None
    ) -> list[DataSample]:
        """Put the deployed embedding on each data sample as ``feature`` ``(D,)``, float32."""
        features = self.pre_logits(feats).float()
        samples = [sample or DataSample() for sample in data_samples or [None] * len(features)]
        for sample, feature in zip(samples, features, strict=True):
            sample.set_field(feature, "feature")
        return samples


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
