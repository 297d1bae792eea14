"""Upstream's faults that are mended."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine import Config
from mmengine.runner import Runner
from torch import nn

from kd_mm.ops.upstream_fixes import mend_layout, mend_multimodal, mend_point_assigner, mend_ssd_head

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


def test_ssd_head_has_what_its_prediction_asks_for() -> None:
    register_all_modules()
    head = MODELS.build(HEAD)
    assert head.loss_cls is None
    assert not any("loss_cls" in key for key in head.state_dict())


def test_tridentnet_starts_from_weights() -> None:
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


def test_a_text_is_laid_out_once_in_each_style() -> None:
    asked = []

    def lay_out(text: str, **options: object) -> tuple[str, bool]:
        asked.append((text, *options.values()))
        return text.upper(), True

    module = ModuleType("formatter")
    module.FormatCode = lay_out
    mend_layout(module)
    for _ in range(3):
        assert module.FormatCode("a = 1", style_config={"based_on_style": "pep8"}) == ("A = 1", True)
    assert len(asked) == 1
    module.FormatCode("a = 1", style_config={"based_on_style": "google"})
    assert [module.FormatCode(text)[0] for text in "bcdebc"] == list("BCDEBC")
    assert len(asked) == 6  # four are remembered


def test_a_head_that_has_its_loss_keeps_it() -> None:
    class SSDHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss_cls = nn.Identity()

    module = ModuleType("mended")
    module.SSDHead = SSDHead
    mend_ssd_head(module)
    assert isinstance(SSDHead().loss_cls, nn.Identity)


def test_transformers_that_mmpretrain_can_use_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
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
        mend_multimodal(dependency)
        assert has is dependency.WITH_MULTIMODAL


def test_points_are_numbered_where_they_are() -> None:
    seen: list[str] = []

    class PointAssigner:
        def assign(self, pred_instances: SimpleNamespace, gt_instances: None) -> str:
            seen.append(str(torch.arange(2).device))
            return "assigned"

    module = ModuleType("mended")
    module.PointAssigner = PointAssigner
    mend_point_assigner(module)
    assert PointAssigner().assign(SimpleNamespace(priors=torch.zeros(2, 3, device="meta")), None) == "assigned"
    assert seen == ["meta"]
    assert PointAssigner.assign.__name__ == "assign"
    assert str(torch.arange(2).device) == "cpu"


def test_a_packaged_base_is_read_without_its_packages_metafiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "resnet/resnet18_8xb32_in1k.py"
    (tmp_path / "mine.py").write_text(f"_base_ = 'mmpretrain::{name}'\n")
    (tmp_path / "missing.py").write_text("_base_ = 'mmpretrain::resnet/resnet18.py'\n")
    asked: list[str] = []
    monkeypatch.setattr("mmengine.config.utils.load", lambda path: asked.append(path) or {"Import": []})
    read = Config.fromfile(tmp_path / "mine.py")
    assert asked == []
    assert read.model.backbone.depth == 18
    with pytest.raises(FileNotFoundError, match=r"resnet/resnet18\.py"):
        Config.fromfile(tmp_path / "missing.py")
    assert [Path(path).name for path in asked] == ["model-index.yml"]


def test_the_collate_function_of_a_packaged_base_is_called_without_its_mark(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text('_base_ = "kd_mm::_base_/datasets/cifar100.py"\n')
    loader = Config.fromfile(child).train_dataloader
    assert "_scope_" in loader.collate_fn
    loader.update(dataset=[torch.zeros(2), torch.ones(2)], num_workers=0, persistent_workers=False)
    loader.update(sampler={"type": "DefaultSampler", "shuffle": False}, batch_size=2)
    (batch,) = Runner.build_dataloader(loader)
    assert torch.equal(batch, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert "_scope_" in loader.collate_fn  # the config stays as it was read
