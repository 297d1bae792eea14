"""Representative configs of mmpretrain's classifier families, made small, and a batch for each."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import mmpretrain
import torch
from mmengine.config import Config
from mmpretrain.structures import DataSample

from .detection_samples import nodes, types

FOLDER = Path(mmpretrain.__file__).parent / ".mim" / "configs"

REPMLP = {"channels": [24, 48, 96, 192], "depths": [2, 2, 3, 2], "sharesets_nums": [1, 4, 8, 32]}
SAM = {"embed_dims": 96, "num_layers": 12, "num_heads": 3, "feedforward_channels": 384}
SAM["global_attn_indexes"] = [2, 5, 8, 11]
# config, input side in pixels, changes to the backbone that a small input needs, or a big network
PYRAMIDS = [
    ("resnet/resnet18_8xb16_cifar10", 32, {}),
    ("resnet/resnetv1d50_8xb32_in1k", 64, {}),
    ("resnext/resnext50-32x4d_8xb32_in1k", 64, {}),
    ("wrn/wide-resnet50_8xb32_in1k", 64, {}),
    ("seresnet/seresnet50_8xb32_in1k", 64, {}),
    ("res2net/res2net50-w14-s8_8xb32_in1k", 64, {}),
    ("resnest/resnest50_32xb64_in1k", 64, {}),
    ("densenet/densenet121_4xb256_in1k", 64, {}),
    ("regnet/regnetx-400mf_8xb128_in1k", 64, {}),
    ("mobilenet_v3/mobilenet-v3-small_8xb128_in1k", 64, {}),
    ("efficientnet/efficientnet-b0_8xb32_in1k", 64, {}),
    ("efficientnet_v2/efficientnetv2-b0_8xb32_in1k", 64, {}),
    ("shufflenet_v1/shufflenet-v1-1x_16xb64_in1k", 64, {}),
    ("shufflenet_v2/shufflenet-v2-1x_16xb64_in1k", 64, {}),
    ("convnext_v2/convnext-v2-atto_32xb32_in1k", 64, {}),
    ("repvgg/repvgg-A0_8xb32_in1k", 64, {}),
    ("repvgg/repvgg-A0_deploy_in1k", 64, {}),
    ("mobileone/mobileone-s0_8xb32_in1k", 64, {}),
    ("hrnet/hrnet-w18_4xb32_in1k", 64, {}),
    ("inception_v3/inception-v3_8xb32_in1k", 128, {}),
    ("cspnet/cspresnet50_8xb32_in1k", 64, {}),
    ("cspnet/cspdarknet50_8xb32_in1k", 64, {}),
    ("edgenext/edgenext-xxsmall_8xb256_in1k", 64, {}),
    ("poolformer/poolformer-s12_32xb128_in1k", 64, {}),
    ("riformer/riformer-s12_8xb128_in1k", 64, {}),
    ("hornet/hornet-tiny_8xb128_in1k", 64, {}),
    ("van/van-tiny_8xb128_in1k", 64, {}),
    ("mobilevit/mobilevit-xxsmall_8xb128_in1k", 64, {}),
    ("efficientformer/efficientformer-l1_8xb128_in1k", 224, {}),
    ("levit/levit-128s_8xb256_in1k", 64, {"img_size": 64}),
    ("tinyvit/tinyvit-5m_8xb256_in1k", 64, {"img_size": (64, 64)}),
    ("swin_transformer_v2/swinv2-tiny-w8_16xb64_in1k-256px", 64, {"img_size": 64, "pad_small_map": True}),
    ("davit/davit-tiny_4xb256_in1k", 64, {"pad_small_map": True}),
    ("mvit/mvitv2-tiny_8xb256_in1k", 64, {"img_size": 64}),
    ("twins/twins-pcpvt-small_8xb128_in1k", 64, {}),
    ("twins/twins-svt-small_8xb128_in1k", 64, {}),
    ("conformer/conformer-tiny-p16_8xb128_in1k", 64, {}),
    ("vig/pvig-tiny_8xb128_in1k", 224, {}),
    ("repmlp/repmlp-base_8xb64_in1k", 224, {"arch": REPMLP}),
]
CONSTANT = [
    ("deit/deit-tiny_4xb256_in1k", 64, {"img_size": 64}, 1),
    ("deit/deit-tiny-distilled_4xb256_in1k", 64, {"img_size": 64}, 2),
    ("deit3/deit3-small-p16_64xb64_in1k", 64, {"img_size": 64}, 1),
    ("beit/benchmarks/beit-base-p16_8xb128-coslr-100e_in1k", 64, {"img_size": 64, "arch": "deit-tiny"}, 1),
    ("eva02/eva02-tiny-p14_in1k", 56, {"img_size": 56}, 1),
    ("dinov2/vit-small-p14_dinov2-pre_headless", 56, {"img_size": 56}, 1),
    ("sam/vit-base-p16_sam_headless", 64, {"img_size": 64, "arch": SAM, "out_channels": 64}, 0),
    ("revvit/revvit-small_8xb256_in1k", 64, {"img_size": 64}, 0),
    ("xcit/xcit-nano-12-p16_8xb128_in1k", 64, {}, 0),
    ("t2t_vit/t2t-vit-t-14_8xb64_in1k", 64, {"img_size": 64}, 1),
    ("tnt/tnt-s-p16_16xb64_in1k", 64, {"img_size": 64}, 1),
    ("hivit/hivit-tiny-p16_16xb64_in1k", 64, {"img_size": 64}, 0),
    ("mlp_mixer/mlp-mixer-base-p16_64xb64_in1k", 64, {"img_size": 64, "arch": "small"}, 0),
    ("convmixer/convmixer-768-32_10xb64_in1k", 56, {}, 0),
    ("vig/vig-tiny_8xb128_in1k", 224, {}, 0),
]
SMALL_VIT = {"img_size": 64, "arch": "deit-tiny"}
#: Families whose stages are like those of a family above.
OTHERS = [
    ("vgg/vgg11_8xb32_in1k", 224, {}),
    ("mobilenet_v2/mobilenet-v2_8xb32_in1k", 64, {}),
    ("convnext/convnext-tiny_32xb128_in1k", 64, {}),
    ("swin_transformer/swin-tiny_16xb64_in1k", 64, {"img_size": 64, "pad_small_map": True}),
    ("vision_transformer/vit-base-p16_64xb64_in1k", 64, SMALL_VIT),
    ("clip/vit-base-p16_pt-64xb64_in1k", 64, SMALL_VIT),
    ("csra/resnet101-csra_1xb16_voc07-448px", 64, {"depth": 50}),
    ("arcface/resnet50-arcface_8xb32_inshop", 64, {}),
    ("lenet/lenet5_mnist", 32, {}),
    ("replknet/replknet-XL_32xb64_in1k-320px", 64, {"arch": "31B"}),
    ("spark/benchmarks/resnet50_8xb256-coslr-300e_in1k", 64, {}),
    ("barlowtwins/benchmarks/resnet50_8xb32-linear-coslr-100e_in1k", 64, {}),
    ("byol/benchmarks/resnet50_8xb512-linear-coslr-90e_in1k", 64, {}),
    ("densecl/benchmarks/resnet50_8xb32-linear-steplr-100e_in1k", 64, {}),
    ("mocov2/benchmarks/resnet50_8xb32-linear-steplr-100e_in1k", 64, {}),
    ("mocov3/benchmarks/resnet50_8xb128-linear-coslr-90e_in1k", 64, {}),
    ("simclr/benchmarks/resnet50_8xb512-linear-coslr-90e_in1k", 64, {}),
    ("simsiam/benchmarks/resnet50_8xb512-linear-coslr-90e_in1k", 64, {}),
    ("swav/benchmarks/resnet50_8xb512-linear-coslr-90e_in1k", 64, {}),
    ("beitv2/benchmarks/beit-base-p16_8xb64_in1k", 64, SMALL_VIT),
    ("cae/benchmarks/beit-base-p16_8xb128-coslr-100e_in1k", 64, SMALL_VIT),
    ("eva/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k", 64, SMALL_VIT),
    ("mae/benchmarks/vit-base-p16_8xb2048-linear-coslr-90e_in1k", 64, SMALL_VIT),
    ("maskfeat/benchmarks/vit-base-p16_8xb256-coslr-100e_in1k", 64, SMALL_VIT),
    ("mff/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k", 64, SMALL_VIT),
    ("milan/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k", 64, SMALL_VIT),
    ("mixmim/benchmarks/mixmim-base_8xb64_in1k", 224, {}),
    ("simmim/benchmarks/swin-base-w7_8xb256-coslr-100e_in1k", 64, {"img_size": 64, "arch": "tiny"}),
]
#: Width of what the head reads where a smaller network was chosen.
WIDTHS = {"deit-tiny": 192, "small": 512, "tiny": 768, "31B": 1024}


def cases() -> list[tuple[str, int, dict[str, Any]]]:
    """Config, input side in pixels and changes to the backbone, a config for most families and two for some."""
    return [(config, side, changes) for config, side, changes, *_ in (*PYRAMIDS, *CONSTANT, *OTHERS)]


def without_classifier() -> list[str]:
    """Folders of upstream without a row: they hold self-supervised and multimodal networks alone."""
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir() and not path.name.startswith("_")}
    return sorted(folders - {config.partition("/")[0] for config, *_ in cases()})


def load(config: str) -> Config:
    """A config by its name under upstream's folder, without the ending."""
    return Config.fromfile(FOLDER / f"{config}.py")


def prepare(config: Config, changes: dict[str, Any]) -> Any:
    """The model's config without pretrained weights, the backbone changed, the head of the width that it then has."""
    model = deepcopy(config.model)
    for node in list(nodes(model)):
        initial = node.get("init_cfg") or {}
        if "checkpoint" in initial or "Pretrained" in types(initial):
            node["init_cfg"] = None
    if "data_preprocessor" not in model and "data_preprocessor" in config:
        model.data_preprocessor = config.data_preprocessor
    if "backbone" in model:
        model.backbone.update(changes)
    arch = changes.get("arch")
    width = arch["channels"][-1] if isinstance(arch, dict) and "channels" in arch else WIDTHS.get(str(arch))
    if width and model.get("head"):
        model.head.in_channels = width
    return model


def batch(model: Any, side: int) -> dict[str, Any]:
    """Four images with two labels each where the head takes several, else one."""
    channels = 1 if "LeNet5" in types(model) else 3
    several = "MultiLabel" in str(model.get("head", {}).get("type")) or "CSRAClsHead" in types(model)
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (channels, side, side), dtype=torch.uint8, generator=generator) for _ in range(4)]
    labelled = [DataSample().set_gt_label([i, i + 1] if several else i) for i in range(4)]
    if several:
        labelled = [one.set_gt_score(torch.eye(20)[i] + torch.eye(20)[i + 1]) for i, one in enumerate(labelled)]
    return {"inputs": images, "data_samples": labelled}
