"""Stage discovery on the families that upstream ships: the smallest variant of each, built from its config."""

from pathlib import Path

import mmpretrain
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

import kd_mm  # noqa: F401
from kd_mm.stages.discovery import discover_stages
from kd_mm.stages.recorder import Recorder

CONFIGS = Path(mmpretrain.__file__).parent / ".mim" / "configs"

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


#: Tried in every run: the kinds of layout that discovery tells apart. The others run by `make test-families`.
SAMPLE = (
    "resnet18",
    "mobilenet-v3",
    "repvgg-A0_deploy",
    "hrnet",
    "poolformer",
    "swinv2",
    "deit-tiny-distilled",
    "xcit",
)


def cases(families):
    """Return one parameter set a family, marked unless it is in the sample."""
    rest = pytest.mark.families
    return [
        pytest.param(*case, id=case[0], marks=() if any(name in case[0] for name in SAMPLE) else rest)
        for case in families
    ]


def build(config, changes=None):
    model = Config.fromfile(CONFIGS / f"{config}.py").model
    model.backbone.update(changes or {})
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(model)


def check(model, stages, side):
    """Every tap exists and gives, in a fresh forward pass, the map that the stage announces."""
    assert [stage.index for stage in stages] == list(range(1, len(stages) + 1))
    strides = [stage.stride for stage in stages]
    assert strides == sorted(strides)
    assert len({stage.tap for stage in stages}) == len(stages)
    recorder = Recorder(model, [stage.tap for stage in stages])
    with recorder, torch.no_grad():
        model.eval().backbone(torch.rand(3, 3, side, side))
    recorder.calibrate()
    features = recorder.take()
    for stage in stages:
        mapped = stage.to_map(features[stage.tap])
        assert mapped.shape == (3, stage.channels, stage.height, stage.width)
        assert stage.stride == side / stage.height
        assert stage.params > 0
        assert not stage.post_relu or mapped.min() >= 0
    body = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert 0.8 * body < sum(stage.params for stage in stages) <= body


@pytest.mark.parametrize(("config", "side", "changes"), cases(PYRAMIDS))
def test_pyramids(config, side, changes):
    model = build(config, changes)
    stages = discover_stages(model, torch.zeros(1, 3, side, side))
    assert len(stages) >= 3
    check(model, stages, side)
    # Each resolution appears once and the last stage is as coarse as the network gets.
    assert len({stage.height for stage in stages}) == len(stages)
    names = [name for name, _ in model.backbone.named_modules()]
    deepest = names.index(stages[-1].tap.removeprefix("backbone.").partition("[")[0])
    assert all(deepest > names.index(stage.tap.removeprefix("backbone.").partition("[")[0]) for stage in stages[:-1])


@pytest.mark.parametrize(("config", "side", "changes", "extra"), cases(CONSTANT))
def test_constant_resolution(config, side, changes, extra):
    model = build(config, changes)
    stages = discover_stages(model, torch.zeros(1, 3, side, side))
    assert len(stages) == 4
    assert {(stage.extra_tokens, stage.height) for stage in stages} == {(extra, stages[0].height)}
    check(model, stages, side)
