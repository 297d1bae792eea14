"""Detectors of mmdet train and predict on the stand-ins."""

from typing import Any

import pytest
import torch
from mmcv.ops import ModulatedDeformConv2dPack
from torch import nn

from ..devices import DEVICES
from ..distillers.conftest import total
from ..distillers.detectors import faster, losses_of, plain, predict

DTYPES = {"cpu": [torch.bfloat16], "cuda": [torch.bfloat16, torch.float16]}


def network(config: Any) -> Any:
    """The config, with detections of any score."""
    if "roi_head" in config:
        config.test_cfg.rcnn.score_thr = 0.0
    return config


def train_one_step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss = total(losses_of(model.train()))
    assert torch.isfinite(loss)
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    optimizer.step()
    for part in ("backbone", "neck", "head"):
        assert any((p != before[name]).any() for name, p in model.named_parameters() if part in name)


def detects(model: nn.Module) -> None:
    results = predict(model)
    assert len(results) == 2
    for result in results:
        assert result.bboxes.shape == (len(result.scores), 4)
        assert torch.isfinite(result.bboxes).all()
    assert sum(map(len, results)) > 0


@pytest.mark.parametrize(("device", "dtype"), [(d, t) for d in DEVICES for t in DTYPES[d]])
def test_detector_under_autocast(device: str, dtype: torch.dtype) -> None:
    model = plain(network(faster())).to(device).train()
    with torch.autocast(device, dtype=dtype):
        loss = total(losses_of(model))
    assert torch.isfinite(loss)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    with torch.autocast(device, dtype=dtype):
        detects(model)


@pytest.mark.parametrize("device", DEVICES)
def test_detector_with_deformable_backbone(device: str) -> None:
    config = network(faster(depth=50))
    dcn = {"type": "DCNv2", "deform_groups": 1, "fallback_on_stride": False}
    config.backbone.update(dcn=dcn, stage_with_dcn=(False, True, True, True), zero_init_residual=False)
    model = plain(config).to(device)
    layers = [module for module in model.modules() if isinstance(module, ModulatedDeformConv2dPack)]
    assert layers
    train_one_step(model)
    assert all(layer.conv_offset.weight.grad.abs().sum() > 0 for layer in layers)
    detects(model)
