"""Re-identification baseline: batch norm neck, head, last stride, flip test."""

from typing import Any

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from torch import nn

from kd_mm.models import BNNeck, BNNeckHead
from kd_mm.registry import MODELS

from ..helpers.errors import assert_refused


def network(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    backbone = {"type": "mmpretrain.ResNet", "depth": 18, "base_channels": 4, "stem_channels": 4}
    head = {"type": "kd_mm.BNNeckHead", "num_classes": 5, "in_channels": 32, **changes.pop("head", {})}
    neck = {"type": "mmpretrain.GlobalAveragePooling"}
    return MODELS.build({"type": "kd_mm.ReIDModel", "backbone": backbone, "neck": neck, "head": head, **changes})


def samples(*labels: int) -> list[DataSample]:
    return [DataSample().set_gt_label(label) for label in labels]


@pytest.fixture(autouse=True)
def _default_scope():
    """Build by mmpretrain's names, whichever scope an earlier test left as the default."""
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        yield


def test_neck_scales_without_shift() -> None:
    neck = BNNeck(3)
    assert [name for name, _ in neck.named_parameters()] == ["weight"]
    inputs = torch.randn(8, 3) * 4 + 9
    normalised = neck(inputs)
    torch.testing.assert_close(normalised.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    plain = nn.BatchNorm1d(3)
    torch.testing.assert_close(normalised, plain(inputs))
    torch.testing.assert_close(neck.eval()(inputs), plain.eval()(inputs))
    neck.reset_parameters()
    assert float(neck.running_mean.abs().sum()) == 0
    nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(BNNeck(3)))


def test_identity_loss_after_the_neck_and_metric_losses_before_it() -> None:
    torch.manual_seed(1)
    metric = {
        "triplet": {"type": "kd_mm.TripletLoss"},
        "soft": {"type": "kd_mm.TripletLoss", "margin": None, "loss_weight": 0.5},
        "left_out": None,
    }
    head = BNNeckHead(num_classes=3, in_channels=4, metric_losses=metric)
    embedding, labels = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    losses = head.loss((embedding,), samples(*labels.tolist()))
    assert list(losses) == ["loss_id", "loss_triplet", "loss_soft"]
    log = nn.functional.log_softmax(head.fc(head.bnneck(embedding)), dim=1)
    smooth = nn.functional.one_hot(labels, 3) * 0.9 + 0.1 / 3
    torch.testing.assert_close(losses["loss_id"], -(smooth * log).sum(1).mean())
    for name in ("triplet", "soft"):
        torch.testing.assert_close(losses[f"loss_{name}"], head.metric_losses[name](embedding, labels))
    assert head.fc.bias is None
    assert list(BNNeckHead(3, 4, metric_losses={}).loss((embedding,), samples(*labels.tolist()))) == ["loss_id"]


def test_what_does_not_fit_is_refused() -> None:
    head = BNNeckHead(num_classes=3, in_channels=4)
    with pytest.raises(ValueError, match=r"pooled embeddings \(B, D\), got \(2, 4, 1, 1\): give the model a neck"):
        head((torch.zeros(2, 4, 1, 1),))
    mixed = [DataSample().set_gt_score(torch.tensor([0.5, 0.5, 0.0])) for _ in range(2)]
    assert_refused("metric losses need one identity an image", head.loss, (torch.randn(2, 4),), mixed)
    for backbone in ({"type": "mmpretrain.HRNet", "arch": "w18"}, {"type": "mmpretrain.ConvNeXt", "arch": "atto"}):
        with pytest.raises(ValueError, match="last stride cannot be removed .*use last_stride=None"):
            network(backbone=backbone, last_stride=1)
    assert_refused("last_stride must be 1 or None", network, last_stride=2)


def test_predicted_feature_is_the_embedding_after_the_neck() -> None:
    model = network().eval()
    inputs = torch.randn(2, 3, 32, 16)
    embedding = model(inputs)
    assert embedding.shape == (2, 32)
    torch.testing.assert_close(embedding, model.head.bnneck(model.extract_feat(inputs, stage="neck")[-1]))
    marked = [DataSample(metainfo={"pid": 4}), DataSample(metainfo={"pid": 5})]
    predicted = model(inputs, marked, mode="predict")
    assert [sample.pid for sample in predicted] == [4, 5]
    assert torch.equal(torch.stack([sample.feature for sample in predicted]), embedding)
    (single,) = model.bfloat16()(inputs[:1].bfloat16(), mode="predict")
    assert single.feature.dtype == torch.float32


def test_flip_test_is_the_mean_of_both_embeddings() -> None:
    inputs = torch.randn(2, 3, 32, 16)
    plain, flipping = network().eval(), network(flip_test=True).eval()
    for model in (plain, flipping):
        model.head.bnneck.running_mean.fill_(0.3)
        model.head.bnneck.running_var.fill_(2.0)
    mean = (plain(inputs) + plain(inputs.flip(3))) / 2
    found = torch.stack([sample.feature for sample in flipping(inputs, mode="predict")])
    torch.testing.assert_close(found, mean)
    mirrored = torch.stack([sample.feature for sample in flipping(inputs.flip(3), mode="predict")])
    torch.testing.assert_close(found, mirrored)
    torch.testing.assert_close(flipping.extract_feat(inputs), mean)  # what mmpretrain's FeatureExtractor calls


BACKBONES = {
    "ResNetV1d": {"depth": 18},
    "MobileNetV2": {},
    "ShuffleNetV2": {},
    "RegNet": {"arch": "regnetx_400mf"},
    "VGG": {"depth": 11},
}


@pytest.mark.parametrize("name", BACKBONES)
def test_last_stride_of_convolutional_backbones(name: str) -> None:
    state = torch.get_rng_state()
    config = {"type": f"mmpretrain.{name}", **BACKBONES[name]}
    plain = MODELS.build(config)
    torch.set_rng_state(state)
    model = network(backbone=config, last_stride=1)
    shapes = [{key: value.shape for key, value in m.state_dict().items()} for m in (model.backbone, plain)]
    assert shapes[0] == shapes[1]
    assert model.backbone.training
    sizes = []
    for backbone in (plain, model.backbone):
        backbone.eval()
        with torch.no_grad():
            sizes.append(tuple(backbone(torch.zeros(1, 3, 128, 64))[-1].shape[2:]))
    assert sizes == [(4, 2), (8, 4)]


def test_last_stride_one_is_the_resnet_of_the_bag_of_tricks() -> None:
    backbone = network(last_stride=1).backbone
    options = {"depth": 18, "base_channels": 4, "stem_channels": 4, "strides": (1, 2, 2, 1)}
    upstream = MODELS.build({"type": "mmpretrain.ResNet", **options})
    upstream.load_state_dict(backbone.state_dict())
    backbone.eval(), upstream.eval()
    inputs = torch.randn(1, 3, 64, 32)
    assert torch.equal(backbone(inputs)[-1], upstream(inputs)[-1])
