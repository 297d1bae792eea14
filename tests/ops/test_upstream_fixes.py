"""Fixes of upstream's faults."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine import Config
from mmengine.runner import Runner
from torch import nn

from kd_mm.ops.upstream_fixes import patch_multimodal, patch_point_assigner, patch_ssd_head

HEAD = {
    "type": "SSDHead",
    "in_channels": (4,),
    "num_classes": 2,
    "anchor_generator": {
        "type": "SSDAnchorGenerator",
        "scale_major": False,
        "strides": [16],
        "ratios": [[2]],
        "min_sizes": [8],
        "max_sizes": [16],
    },
}


def test_ssd_head_has_loss_cls() -> None:
    register_all_modules()
    head = MODELS.build(HEAD)
    assert head.loss_cls is None
    assert not any("loss_cls" in key for key in head.state_dict())


def test_coco_metric_computes_at_a_list_of_thresholds(tmp_path: Path) -> None:
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
    names = {"images": [{"id": 1, "width": 9, "height": 9}], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps({**names, "annotations": [box]}))
    metric = CocoMetric(ann_file=str(tmp_path / "a.json"), iou_thrs=[0.5, 0.75])
    metric.dataset_meta = {"classes": ("cat",)}
    found = {"img_id": 1, "bboxes": np.array([[0.0, 0, 9, 9]]), "scores": np.ones(1), "labels": np.zeros(1, int)}
    assert metric.compute_metrics([({}, found)])["bbox_mAP_50"] == 1


def test_tridentnet_initialises_its_weights() -> None:
    register_all_modules()
    torch.manual_seed(0)
    config = {"type": "TridentResNet", "depth": 50, "num_stages": 3, "strides": (1, 2, 2), "dilations": (1, 1, 1)}
    config |= {"base_channels": 4, "out_indices": (2,), "num_branch": 2, "test_branch_idx": 1}
    backbone = MODELS.build({**config, "trident_dilations": (1, 2)})
    backbone.init_weights()
    for block in backbone.layer3:
        limit = (6 / (9 * block.conv2.in_channels)) ** 0.5  # Kaiming, uniform, fan in
        weight = block.conv2.weight.detach().abs()
        assert 0.9 * limit < weight.max() <= limit
        assert float(weight.mean()) == pytest.approx(limit / 2, rel=0.1)


def test_ssd_head_keeps_its_own_loss_cls() -> None:
    class SSDHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss_cls = nn.Identity()

    module = ModuleType("patched")
    module.SSDHead = SSDHead
    patch_ssd_head(module)
    assert isinstance(SSDHead().loss_cls, nn.Identity)


def test_multimodal_models_follow_the_installed_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("transformers.pytorch_utils")
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    monkeypatch.setitem(sys.modules, package.__name__, package)
    dependency = ModuleType("dependency")
    for has in (True, False):
        dependency.WITH_MULTIMODAL = True
        if has:
            package.find_pruneable_heads_and_indices = None
        else:
            del package.find_pruneable_heads_and_indices
        patch_multimodal(dependency)
        assert has is dependency.WITH_MULTIMODAL


def test_point_assigner_makes_tensors_on_the_device_of_the_points() -> None:
    devices: list[str] = []

    class PointAssigner:
        def assign(self, pred_instances: SimpleNamespace, gt_instances: None) -> str:
            devices.append(str(torch.arange(2).device))
            return "assigned"

    module = ModuleType("patched")
    module.PointAssigner = PointAssigner
    patch_point_assigner(module)
    assert PointAssigner().assign(SimpleNamespace(priors=torch.zeros(2, 3, device="meta")), None) == "assigned"
    assert devices == ["meta"]
    assert PointAssigner.assign.__name__ == "assign"
    assert str(torch.arange(2).device) == "cpu"


def test_collate_function_of_a_packaged_base_is_called_without_scope(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text('_base_ = "kd_mm::_base_/datasets/cifar100.py"\n')
    loader = Config.fromfile(child).train_dataloader
    assert "_scope_" in loader.collate_fn
    loader.update(dataset=[torch.zeros(2), torch.ones(2)], num_workers=0, persistent_workers=False)
    loader.update(sampler={"type": "DefaultSampler", "shuffle": False}, batch_size=2)
    (batch,) = Runner.build_dataloader(loader)
    assert torch.equal(batch, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert "_scope_" in loader.collate_fn  # the config is not changed
