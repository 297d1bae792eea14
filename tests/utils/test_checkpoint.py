"""Weights under names of wrappers, and those that a network resizes when it loads them."""

from pathlib import Path

import torch
from mmengine.config import Config

from kd_mm.utils.checkpoint import fill, student_state_dict
from kd_mm.utils.config import build_network

from ..helpers.compare import weights
from ..helpers.tools import Tools

CONFIG = """
_base_ = "kd_mm::quickstart/student_digits.py"
layers = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
model = dict(
    backbone=dict(_delete_=True, type="mmpretrain.VisionTransformer", arch=layers, img_size=16, patch_size=4),
    neck=None,
    head=dict(_delete_=True, type="mmpretrain.VisionTransformerClsHead", num_classes=10, in_channels=16),
)
load_from = "large.pth"
optim_wrapper = dict(optimizer=dict(lr=0.0))
train_dataloader = dict(dataset=dict(indices=32))
val_dataloader = dict(dataset=dict(indices=20))
train_cfg = dict(max_epochs=1)
"""


def test_position_embeddings_of_another_image_size(cpu_tools: Tools, tmp_path: Path) -> None:
    (tmp_path / "vit.py").write_text(CONFIG)
    config = Config.fromfile(tmp_path / "vit.py")
    network = build_network(config)
    config.model.backbone.img_size = 32
    stored = {key: torch.rand_like(value) for key, value in build_network(config).state_dict().items()}
    torch.save(stored, tmp_path / "large.pth")
    fill(network, stored, "teacher", "large.pth")
    expected = network.backbone.pos_embed
    assert expected.shape == (1, 17, 16)
    assert torch.equal(expected[:, 0], stored["backbone.pos_embed"][:, 0])
    out = cpu_tools.train("vit.py", "--work-dir", "run", cwd=tmp_path).out
    assert "another shape" not in out
    assert torch.equal(weights(tmp_path / "run/epoch_1.pth")["backbone.pos_embed"], expected)


def test_names_that_torch_puts_around_parts() -> None:
    names = "_fsdp_wrapped_module.backbone._checkpoint_wrapped_module.a.weight", "_fsdp_wrapped_module.head._orig_mod.b"
    wrapped = {name: torch.ones(1) for name in names}
    assert [*student_state_dict({"model": wrapped})] == ["backbone.a.weight", "head.b"]
