"""Small dense heads of mmdet, and maps for them."""

from typing import Any

import torch
from mmdet.registry import MODELS as DETECTION
from mmengine.registry import init_default_scope
from torch import Tensor, nn

WIDTH, CLASSES, SHAPE = 32, 3, (64, 96)
STRIDES = [8, 16, 32]
ANCHOR = {
    "type": "AnchorGenerator",
    "ratios": [1.0],
    "octave_base_scale": 8,
    "scales_per_octave": 1,
    "strides": STRIDES,
}
TRAIN = {"assigner": {"type": "ATSSAssigner", "topk": 9}, "allowed_border": -1, "pos_weight": -1, "debug": False}
MAX_IOU = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0, "ignore_iof_thr": -1}
FOCAL = {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25}
CENTER = {"type": "CrossEntropyLoss", "use_sigmoid": True}
HEADS: dict[str, dict[str, Any]] = {
    "RetinaHead": {
        "anchor_generator": {**ANCHOR, "ratios": [0.5, 1.0, 2.0], "octave_base_scale": 4, "scales_per_octave": 3},
        "train_cfg": {**TRAIN, "assigner": MAX_IOU, "sampler": {"type": "PseudoSampler"}},
        "loss_cls": FOCAL,
    },
    "GFLHead": {
        "anchor_generator": ANCHOR,
        "train_cfg": TRAIN,
        "reg_max": 5,
        "loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0},
        "loss_bbox": {"type": "GIoULoss"},
    },
    "ATSSHead": {
        "anchor_generator": ANCHOR,
        "train_cfg": TRAIN,
        "loss_cls": FOCAL,
        "loss_bbox": {"type": "GIoULoss"},
        "loss_centerness": CENTER,
    },
    "FCOSHead": {
        "strides": STRIDES,
        "regress_ranges": ((-1, 32), (32, 64), (64, 1e8)),
        "norm_on_bbox": True,
        "centerness_on_reg": True,
        "loss_cls": FOCAL,
        "loss_bbox": {"type": "GIoULoss"},
        "loss_centerness": CENTER,
    },
}


class Detector(nn.Module):
    """A dense head under the name that detectors give it."""

    def __init__(self, kind: str, seed: int = 0, width: int = WIDTH, **options: Any) -> None:
        super().__init__()
        init_default_scope("mmdet")
        torch.manual_seed(seed)
        common = {"num_classes": CLASSES, "in_channels": WIDTH, "feat_channels": width, "stacked_convs": 4}
        self.bbox_head: Any = DETECTION.build({"type": kind, **common, **HEADS[kind], **options})
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0, 0.1)

    def forward(self, levels: list[Tensor]) -> Any:
        return self.bbox_head(levels)


def pyramid(seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(2, WIDTH, SHAPE[0] // stride, SHAPE[1] // stride) for stride in STRIDES]
