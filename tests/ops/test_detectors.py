"""Detectors of mmdet train and predict on the stand-ins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmcv.ops import ModulatedDeformConv2dPack
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..devices import DEVICES

SIZE = 96
DTYPES = {"cpu": [torch.bfloat16], "cuda": [torch.bfloat16, torch.float16]}


def detector(config: str, device: str, depth: int = 18, **backbone: Any) -> nn.Module:
    """An upstream detector, narrow and without pretrained weights."""
    register_all_modules(init_default_scope=True)
    model = get_config(config).model
    channels = [width * (1 if depth == 18 else 4) for width in (8, 16, 32, 64)]
    model.backbone.update(depth=depth, base_channels=8, init_cfg=None, frozen_stages=-1, **backbone)
    model.neck.update(in_channels=channels, out_channels=16)
    for name in ("rpn_head", "bbox_head"):
        if name in model:
            model[name].update(in_channels=16, feat_channels=16)
    if "roi_head" in model:
        model.roi_head.bbox_roi_extractor.out_channels = 16
        model.roi_head.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=3)
    else:
        model.bbox_head.update(num_classes=3, stacked_convs=1)
        # An untrained head scores about 0.01, by the bias it starts from.
        model.test_cfg.score_thr = 0.0
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(model)).to(device)


def batch(device: torch.device) -> dict[str, Any]:
    """Two images of noise with two boxes each."""
    boxes = torch.tensor([[8.0, 8, 60, 50], [30, 40, 90, 92]])
    samples = []
    for _ in range(2):
        shape = (SIZE, SIZE)
        sample = DetDataSample(
            metainfo={
                "img_shape": shape,
                "ori_shape": shape,
                "pad_shape": shape,
                "batch_input_shape": shape,
                "scale_factor": (1.0, 1.0),
            }
        )
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2])).to(device)
        samples.append(sample)
    torch.manual_seed(1)
    return {"inputs": torch.randn(2, 3, SIZE, SIZE).to(device), "data_samples": samples}


def total(losses: dict[str, Any]) -> Tensor:
    values = [value for name, value in losses.items() if "loss" in name]
    return torch.stack([t for v in values for t in (v if isinstance(v, list) else [v])]).sum()


def train_one_step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss = total(model(**batch(next(model.parameters()).device), mode="loss"))
    assert torch.isfinite(loss)
    loss.backward()
    for parameter in model.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
    optimizer.step()
    for part in ("backbone", "neck", "head"):
        assert any((p != before[name]).any() for name, p in model.named_parameters() if part in name)


def predict(model: nn.Module) -> None:
    model.eval()
    with torch.no_grad():
        results = model(**batch(next(model.parameters()).device), mode="predict")
    assert len(results) == 2
    for result in results:
        boxes = result.pred_instances.bboxes
        assert boxes.shape == (len(result.pred_instances.scores), 4)
        assert torch.isfinite(boxes).all()
    assert sum(len(result.pred_instances) for result in results) > 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "config", ["mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"]
)
def test_detector_trains_and_predicts(config: str, device: str) -> None:
    model = detector(config, device)
    train_one_step(model)
    predict(model)


@pytest.mark.parametrize(("device", "dtype"), [(d, t) for d in DEVICES for t in DTYPES[d]])
def test_detector_under_autocast(device: str, dtype: torch.dtype) -> None:
    model = detector("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", device)
    with torch.autocast(device, dtype=dtype):
        loss = total(model(**batch(next(model.parameters()).device), mode="loss"))
    assert torch.isfinite(loss)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    with torch.autocast(device, dtype=dtype):
        predict(model)


@pytest.mark.parametrize("device", DEVICES)
def test_detector_with_deformable_backbone(device: str) -> None:
    model = detector(
        "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
        device,
        depth=50,
        dcn={"type": "DCNv2", "deform_groups": 1, "fallback_on_stride": False},
        stage_with_dcn=(False, True, True, True),
    )
    layers = [module for module in model.modules() if isinstance(module, ModulatedDeformConv2dPack)]
    assert layers
    train_one_step(model)
    assert all(layer.conv_offset.weight.grad.abs().sum() > 0 for layer in layers)
    predict(model)
