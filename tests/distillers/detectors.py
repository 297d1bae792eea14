"""Upstream's detectors made small, batches for them, and Distillers of two of them."""

import copy
import functools
from typing import Any

import torch
from mmdet.models.backbones.resnet import BasicBlock, ResNet
from mmdet.registry import MODELS as DETECTION_MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn

import kd_mm
from kd_mm.apis.recipes import read_recipe
from kd_mm.registry import MODELS
from kd_mm.utils.config import load_config

from ..helpers.detection_samples import nodes

CLASSES = 3
SIZE = 96
WIDTHS = ("in_channels", "out_channels", "feat_channels", "fc_out_channels", "embed_dims", "feedforward_channels")
#: What makes a network large without bearing on what is tested.
LESS = {
    "num_feats": 8,
    "num_groups": 4,
    "num_layers": 2,
    "num_queries": 12,
    "num_dn_queries": 4,
    "stacked_convs": 1,
    "num_classes": CLASSES,
    "init_cfg": None,
    "max_per_img": 10,
    "num_csp_blocks": 1,
    "ffn_drop": 0.0,
}
SHARE = 16


@DETECTION_MODELS.register_module()
class ShallowResNet(ResNet):
    """Upstream's network with one more depth: a block a stage."""

    arch_settings = {**ResNet.arch_settings, 10: (BasicBlock, (1, 1, 1, 1))}


@functools.cache
def _read(config: str) -> Any:
    return load_config(config).model


def upstream(config: str, share: int = SHARE) -> Any:
    """The model of an upstream config, its widths behind the backbone divided, and what else is large cut down."""
    model = copy.deepcopy(_read(config))
    shrink(model, share)
    return model


def shrink(model: Any, share: int) -> None:
    for node in list(nodes({key: value for key, value in model.items() if key != "backbone"})):
        for key, value in node.items():
            if key in WIDTHS:
                node[key] = [v // share for v in value] if isinstance(value, list | tuple) else value // share
            elif key in LESS and (key != "num_groups" or node.get("type") == "GN"):
                node[key] = LESS[key]
    for key in ("num_queries", "num_classes"):
        if key in model:
            model[key] = LESS[key]
    model.backbone.init_cfg = None
    model.data_preprocessor.batch_augments = None  # a size of their own for each batch


def resnet(config: str, width: int = 8, depth: int = 10, frozen: int = -1, share: int = SHARE) -> Any:
    """A detector with a narrow ResNet."""
    full = upstream(config, share)
    levels = full.backbone.out_indices
    assert full.backbone.type == "ResNet"
    full.backbone.update(type="ShallowResNet", depth=depth, base_channels=width, frozen_stages=frozen)
    channels = [width * 2**i * (4 if depth >= 50 else 1) for i in levels]
    if "neck" in full:
        full.neck.in_channels = channels
    return full


CASCADE = "mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py"
FASTER = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
RETINA = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"


def two_stage(full: Any) -> Any:
    """Few proposals and few sampled regions."""
    for node in list(nodes(full)):
        if node.get("type") == "RandomSampler":
            node["num"] = 16
        if "nms_pre" in node:
            node.update(nms_pre=50, max_per_img=10)
    return full


def faster(width: int = 8, depth: int = 10, frozen: int = -1) -> Any:
    return two_stage(resnet(FASTER, width, depth, frozen))


def cascade(width: int = 8) -> Any:
    return two_stage(resnet(CASCADE, width))


def retina(width: int = 8, depth: int = 10, frozen: int = -1) -> Any:
    full = resnet(RETINA, width, depth, frozen)
    full.test_cfg.score_thr = 0.0  # an untrained head scores about 0.01, by the bias it starts from
    return full


MTKD = {
    "exits": {"type": "kd_mm.SepConvExit", "norm": "GN"},
    "losses": {
        "aux": {"type": "kd_mm.ExitTaskLoss", "loss_weight": 0.5},
        "scd": {"type": "kd_mm.StageChannelLoss", "loss_weight": 3.0},
        "srd": {"type": "kd_mm.StageResponseLoss", "loss_weight": 0.5, "temperature": 1.0},
        "review": {"type": "kd_mm.CrossStageReviewLoss", "loss_weight": 0.15, "temperature": 1.0},
    },
}
#: The shipped recipe: exits classify cells, maps are those of the necks.
CELLS: dict[str, Any] = read_recipe("mtkd_ssr", "detection").mtkd_ssr.to_dict()
KD = {"losses": {"kd": {"type": "kd_mm.DetKDLoss"}}}
LD = {"losses": {"ld": {"type": "kd_mm.LDLoss"}}}


def only(recipe: dict, *names: str) -> dict:
    """The recipe with these losses alone."""
    return {**recipe, "losses": {name: recipe["losses"][name] for name in names}}


def register() -> None:
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")


def plain(config: Any, seed: int = 0) -> nn.Module:
    register()
    torch.manual_seed(seed)
    model = MODELS.build(copy.deepcopy(config))
    model.init_weights()
    return model


def build(
    student: Any, teacher: Any, recipe: Any = MTKD, seed: int = 0, options: Any = None, **config: Any
) -> kd_mm.distillers.Distiller:
    """A Distiller; the teacher has random weights, its exits count as trained; ``options`` are the teacher's."""
    register()
    torch.manual_seed(seed)
    full = {
        "type": "kd_mm.Distiller",
        "student": student,
        "teacher": {"config": teacher, "random_weights": True, **(options or {})},
        "recipe": recipe,
        "input_size": SIZE,
    }
    model = MODELS.build(ConfigDict(copy.deepcopy({**full, **config})))
    model.init_weights()
    for each in model.teachers.values():
        each.exits_ready = True
    return model


def batch(size: int = SIZE, images: int = 2, empty: bool = False) -> dict[str, Any]:
    """Noise images with two objects each, and one ignored object; the last image is empty if asked for."""
    generator = torch.Generator().manual_seed(7)
    data: dict[str, Any] = {"inputs": [], "data_samples": []}
    shape, scale = (size, size), size / 96
    for i in range(images):
        none = empty and i == images - 1
        sample = DetDataSample(metainfo={"img_shape": shape, "ori_shape": shape, "scale_factor": (1.0, 1.0)})
        boxes = torch.tensor([[8.0, 8, 60, 50], [30, 40, 90, 92]]) * scale
        sample.gt_instances = InstanceData(
            bboxes=boxes[: 0 if none else 2], labels=torch.tensor([0, 2])[: 0 if none else 2]
        )
        sample.ignored_instances = InstanceData(
            bboxes=torch.tensor([[60.0, 2, 90, 30]]) * scale, labels=torch.tensor([1])
        )
        data["inputs"].append(torch.randint(0, 256, (3, *shape), generator=generator, dtype=torch.uint8))
        data["data_samples"].append(sample)
    return data


def losses_of(model: nn.Module, seed: int = 3, **options: Any) -> dict[str, Any]:
    """The losses of a training step, the detectors' random samplers seeded."""
    data = model.data_preprocessor(batch(**options), True)
    torch.manual_seed(seed)
    return model(**data, mode="loss")


def predict(model: nn.Module, **options: Any) -> list[Any]:
    model.eval()
    with torch.no_grad():
        return [sample.pred_instances for sample in model.val_step(batch(**options))]
