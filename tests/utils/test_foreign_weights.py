"""Weights of torchvision's networks under mmpretrain's names: the same logits."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from mmengine.registry import DefaultScope
from torch import nn
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2
from torchvision.models.vision_transformer import VisionTransformer

from kd_mm.registry import MODELS
from kd_mm.utils.checkpoint import fill, read_checkpoint, student_state_dict
from kd_mm.utils.foreign_weights import own_names

from ..helpers.compare import same

VIT = {"embed_dims": 48, "num_layers": 3, "num_heads": 3, "feedforward_channels": 96}
SWIN = {"embed_dims": 24, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8]}
EFFICIENT = {"type": "EfficientNet", "arch": "b0", "conv_cfg": None, "norm_cfg": {"type": "BN", "eps": 1e-5}}
SMALL_V3 = {"type": "StackedLinearClsHead", "in_channels": 576, "mid_channels": [1024], "act_cfg": {"type": "HSwish"}}


def linear(channels: int) -> dict[str, Any]:
    return {"type": "LinearClsHead", "in_channels": channels}


#: torchvision's network of ten classes, our backbone, neck and head.
NETWORKS = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), {"type": "ResNet", "depth": 18}, linear(512)),
    "resnet50": (lambda: torchvision.models.resnet50(num_classes=10), {"type": "ResNet", "depth": 50}, linear(2048)),
    "mobilenet_v2": (
        lambda: torchvision.models.mobilenet_v2(num_classes=10),
        {"type": "MobileNetV2"},
        linear(1280),
    ),
    "mobilenet_v3": (
        lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
        {"type": "MobileNetV3", "arch": "small"},
        SMALL_V3,
    ),
    "resnext50": (
        lambda: torchvision.models.resnext50_32x4d(num_classes=10),
        {"type": "ResNeXt", "depth": 50},
        linear(2048),
    ),
    "efficientnet": (lambda: torchvision.models.efficientnet_b0(num_classes=10), EFFICIENT, linear(1280)),
    "swin": (
        lambda: SwinTransformer([4, 4], 24, [2, 2, 2, 2], [1, 2, 4, 8], [7, 7], num_classes=10),
        {"type": "SwinTransformer", "arch": SWIN},
        linear(192),
    ),
    "swin_v2": (
        lambda: SwinTransformer(
            [4, 4],
            24,
            SWIN["depths"],
            SWIN["num_heads"],
            [8, 8],
            num_classes=10,
            block=SwinTransformerBlockV2,
            downsample_layer=PatchMergingV2,
        ),
        {
            "type": "SwinTransformerV2",
            "arch": {**SWIN, "extra_norm_every_n_blocks": 0},
            "img_size": 256,
            "window_size": [8] * 4,
        },
        linear(192),
    ),
    "vit": (
        lambda: VisionTransformer(64, 16, 3, 3, 48, 96, num_classes=10),
        {
            "type": "VisionTransformer",
            "arch": VIT,
            "img_size": 64,
            "patch_size": 16,
            "norm_cfg": {"type": "LN", "eps": 1e-6},
        },
        {"type": "VisionTransformerClsHead", "in_channels": 48},
    ),
}


def pair(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    build, backbone, head = NETWORKS[name]
    source = build().eval()
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for parameter in source.parameters():  # no layer is like another
        parameter.data += 0.02 * torch.randn_like(parameter)
    neck = None if name == "vit" else {"type": "GlobalAveragePooling"}
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        parts = {"backbone": backbone, "neck": neck, "head": {**head, "num_classes": 10}}
        own = MODELS.build({"type": "ImageClassifier", **parts})
    return source, own.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_torchvision(name: str) -> None:
    source, own = pair(name)
    side = {"swin": 224, "swin_v2": 256}.get(
        name, 64
    )  # by windows without padding, which the two toolkits mask differently
    images = torch.randn(1, 3, side, side)
    for weights in (source.state_dict(), dict(sorted(source.state_dict().items()))):  # sorted, as in safetensors
        for parameter in own.parameters():
            parameter.data.zero_()
        fill(own, weights, "teacher", "file.pth")
        with torch.no_grad():
            torch.testing.assert_close(own(images), source(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("key", "prefix"), [("model_state_dict", "model."), ("state_dict_ema", "net.backbone.")])
def test_other_layouts_of_a_file(key: str, prefix: str, tmp_path: Path) -> None:
    source, own = pair("resnet18")
    for what, state in (("foreign", source.state_dict()), ("own", own.state_dict())):
        torch.save({"epoch": 3, key: {prefix + name: tensor for name, tensor in state.items()}}, tmp_path / what)
        fill(own, student_state_dict(read_checkpoint(str(tmp_path / what))), "teacher", what)
    with torch.no_grad():
        images = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(own(images), source(images), rtol=1e-4, atol=1e-4)


def test_a_file_of_another_network_is_refused_by_its_names() -> None:
    _, own = pair("resnet18")
    deeper, _ = pair("resnet50")
    before = own.state_dict()["head.fc.weight"].clone()
    with pytest.raises(ValueError, match=r"teacher: r50.pth does not fit its config: missing: .* left over: layer1"):
        fill(own, deeper.state_dict(), "teacher", "r50.pth")
    assert torch.equal(own.state_dict()["head.fc.weight"], before)


def test_efficientnets_that_pad_otherwise_are_not_read_in_silence() -> None:
    source, own = pair("efficientnet")
    padded = {"type": "EfficientNet", "arch": "b0"}  # as mmpretrain's configs have it
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        other = MODELS.build({"type": "ImageClassifier", "backbone": padded, "head": None})
    weights = source.state_dict()
    with pytest.raises(ValueError, match=r"torchvision pads .* evenly.*set model\.backbone\.conv_cfg=None and"):
        own_names(other, weights)
    assert own_names(own, weights).keys() == own.state_dict().keys()


def test_norms_of_timms_mobilenet_v3_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    source, own = pair("mobilenet_v3")
    weights = source.state_dict()
    timm = {name.replace("features.0.0.", "conv_stem."): value for name, value in weights.items()}
    own_names(own, weights)
    assert "eps" not in capsys.readouterr().out
    own_names(own, timm)
    assert (
        "MobileNetV3: wrong for timm's tf_* weights, which are padded as TensorFlow does; right for its others; th"
        in capsys.readouterr().out
    )


def assert_restored(own: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Assert that a network's own weights, under other names, fill it again."""
    before = {key: value.clone() for key, value in own.state_dict().items()}
    own.load_state_dict({key: torch.zeros_like(value) for key, value in before.items()})
    fill(own, weights, "teacher", "file.pth")
    assert same(own.state_dict(), before)


#: Of a Vision Transformer, mmpretrain's and timm's.
TIMM = {
    "backbone.": "",
    "layers.": "blocks.",
    "patch_embed.projection": "patch_embed.proj",
    "ffn.blocks.0.0": "mlp.fc1",
    "ffn.blocks.1": "mlp.fc2",
    "head.blocks.": "",
    "ln1": "norm1",
    "ln2": "norm2",
}


def test_sorted_names_of_timm() -> None:
    _, own = pair("vit")
    weights = {key: value.clone() for key, value in own.state_dict().items()}
    for before, after in TIMM.items():
        weights = {key.replace(before, after): value for key, value in weights.items()}
    weights = {("norm." + key.partition(".")[2] if key.startswith("norm1.") else key): weights[key] for key in weights}
    assert_restored(own, dict(sorted(weights.items())))


#: Of the layers in a block of an EfficientNet, timm's: of the first block, and of the others.
TIMM_BLOCKS = (
    {"depthwise_conv": ("conv_dw", "bn1"), "linear_conv": ("conv_pw", "bn2")},
    {"expand_conv": ("conv_pw", "bn1"), "depthwise_conv": ("conv_dw", "bn2"), "linear_conv": ("conv_pwl", "bn3")},
)


def timm_name(name: str) -> str:
    words = name.removeprefix("backbone.layers.").split(".")
    if words[0] == "head":
        return f"classifier.{words[-1]}"
    if len(words) == 3:  # the first and the last convolution
        first = words[0] == "0"
        names = {"conv": "conv_stem" if first else "conv_head", "bn": "bn1" if first else "bn2"}
        return f"{names[words[1]]}.{words[-1]}"
    block = f"blocks.{int(words[0]) - 1}.{words[1]}"
    if words[2] == "se":
        return f"{block}.se.{'conv_reduce' if words[3] == 'conv1' else 'conv_expand'}.{words[-1]}"
    return f"{block}.{TIMM_BLOCKS[words[0] != '1'][words[2]][words[3] == 'bn']}.{words[-1]}"


def test_sorted_names_of_timms_efficientnet() -> None:
    _, own = pair("efficientnet")
    weights = {timm_name(key): value.clone() for key, value in own.state_dict().items()}
    assert len(weights) == len(own.state_dict())
    assert_restored(own, dict(sorted(weights.items())))


def test_squeeze_and_excitation_of_timm_comes_before_the_shortcut() -> None:
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        backbone = {"type": "SEResNet", "depth": 50}
        head = {**linear(2048), "num_classes": 10}
        own = MODELS.build({"type": "ImageClassifier", "backbone": backbone, "head": head})
    before = {key: torch.randn_like(value.float()).to(value) for key, value in own.state_dict().items()}
    names = {key: re.sub(r"^backbone\.|^head\.", "", key) for key in before}
    names = {key: re.sub(r"se_layer\.conv(\d)\.conv", r"se.fc\1", name) for key, name in names.items()}
    order = sorted(names, key=lambda key: "downsample" in key)
    for prefix in ("", "legacy"):
        weights = {names[key].replace(".se.", ".se_module." if prefix else ".se."): before[key] for key in order}
        if prefix:
            with pytest.raises(ValueError, match="teacher: x.pth does not fit its config: a legacy SE-ResNet"):
                fill(own, weights, "teacher", "x.pth")
        else:
            fill(own, weights, "teacher", "x.pth")
    assert same(own.state_dict(), before)


def test_tensors_sorted_by_names_that_do_not_tell_the_order_are_refused() -> None:
    own = nn.Sequential(OrderedDict(backbone=MODELS.build({"type": "kd_mm.CIFARVGG", "depth": 8})))
    weights = {key.removeprefix("backbone."): value for key, value in own.state_dict().items()}
    with pytest.raises(ValueError, match="sorted by name, as in a safetensors file, so the order"):
        fill(own, {f"net{key}": weights[key] for key in sorted(weights)}, "teacher", "x.safetensors")


WRAPPED = {
    "average": {"model_ema": {"n_averaged": torch.tensor(4)}},
    "Lightning with a criterion": {"state_dict": {"criterion.weight": torch.ones(3)}, "optimizer_states": [{"x": 1}]},
    "other keys": {"weights": {}, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
    "nested": {"checkpoint": {"model": {}}},
    "a counter beside": {"ema_model": {}, "step": torch.tensor(4)},
    "a profiler": {"state_dict": {"total_ops": torch.zeros(1), "module.net.backbone.total_params": torch.zeros(1)}},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_files_of_wrapped_networks(name: str, tmp_path: Path) -> None:
    _, own = pair("vit")
    stored = WRAPPED[name]
    inner = next(iter(stored.values()))
    inner = inner.get("model", inner)
    inner.update({f"module.net.{key}": value for key, value in own.state_dict().items()})
    torch.save(stored, tmp_path / "file.pth")
    assert_restored(own, student_state_dict(read_checkpoint(str(tmp_path / "file.pth"))))


@pytest.mark.parametrize("separator", ["_", "."])
def test_averages_stored_beside_the_weights(separator: str) -> None:
    _, own = pair("vit")
    weights = own.state_dict()
    averages = {"ema_" + key.replace(".", separator): torch.zeros_like(value) for key, value in weights.items()}
    assert student_state_dict({"state_dict": {**weights, **averages}}).keys() == weights.keys()


def test_files_without_weights(tmp_path: Path) -> None:
    _, own = pair("vit")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list.pth holds a list and no dict of weights"):
        read_checkpoint(str(tmp_path / "list.pth"))
    with pytest.raises(ValueError, match="teacher: x.pth holds no weights"):
        fill(own, student_state_dict({"epoch": 3}), "teacher", "x.pth")


def test_classifiers_that_differ_are_told_with_a_way() -> None:
    source, own = pair("resnet18")
    weights = source.state_dict() | {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}
    with pytest.raises(
        ValueError, match=r"\(7,\); it is of another number of classes: train it on those of its config"
    ):
        fill(own, weights, "teacher", "x.pth")
    weights = own.state_dict() | {"head.fc.weight": torch.zeros(7, 512), "head.fc.bias": torch.zeros(7)}
    with pytest.raises(ValueError, match=r"in the network\); it is of another number of classes: train it on those"):
        fill(own, weights, "teacher", "x.pth")
    source, _ = pair("vit")
    build, backbone, head = NETWORKS["vit"]
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        parts = {"backbone": {**backbone, "img_size": 32}, "head": {**head, "num_classes": 10}}
        small = MODELS.build({"type": "ImageClassifier", **parts})
        parts["head"]["hidden_dim"] = 24
        hidden = MODELS.build({"type": "ImageClassifier", **parts})
    with pytest.raises(ValueError, match="; set model.head.hidden_dim=None"):
        fill(hidden, source.state_dict(), "teacher", "x.pth")
    fill(small, source.state_dict(), "teacher", "x.pth")  # the position embedding is resized
    assert small.backbone.pos_embed.shape == (1, 5, 48)
    assert torch.equal(small.backbone.pos_embed[:, 0], source.encoder.pos_embedding[:, 0])
