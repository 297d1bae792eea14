"""Representative configs of mmdet's families, and training steps on generated samples.

Models keep their widths; only pretrained weights, enlarged images and most regions are left out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import mmdet
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from torch import distributed, nn

from kd_mm import ops
from kd_mm.registry import MODELS

from .detection_samples import SIZE, nodes, types
from .mirrored_ops import Operator, wrapped_operators

FOLDER = Path(mmdet.__file__).parent / ".mim" / "configs"
# A family's further configs are worth a run where they bring in one of these.
OPERATOR_TYPES = {
    *("CARAFE", "DCN", "DCNv2", "DeformRoIPoolPack", "FPN_CARAFE", "MMSyncBN", "ModulatedDeformRoIPoolPack"),
    *("PISARoIHead", "RoIPool", "SAC", "SimpleRoIAlign", "carafe", "soft_nms"),
}


def names() -> list[str]:
    """Upstream's config families: the folders beside `_base_`."""
    return sorted(p.name for p in FOLDER.iterdir() if p.is_dir() and not p.name.startswith("_"))


# Where the first choice could not train: the RPN alone gets no `num_classes`, trackers take finished detectors.
CHOICE = {
    "bytetrack": "yolox_x_8xb4-amp-80e_crowdhuman-mot17halftrain_test-mot17halfval.py",
    "cascade_rpn": "cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py",
    "sort": "faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py",
    "strongsort": "yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py",
}


def load(path: Path) -> Config:
    """A config by its path under upstream's folder."""
    return Config.fromfile(FOLDER / path)


def candidates(family: str) -> Iterator[tuple[Path, Config]]:
    """Configs of a family that hold a model, a small plain one first; read one by one, since that takes long.

    Paths are relative to `FOLDER`. Four of upstream's 827 files name bases that do not exist; they are
    left out.
    """

    def rank(path: Path) -> tuple[bool, bool, int, str]:
        small = re.search(r"r18|r50|tiny|nano|_s_", path.name)
        return path.name != CHOICE.get(family), not small, len(path.name), path.name

    for path in sorted((FOLDER / family).rglob("*.py"), key=rank):
        short = path.relative_to(FOLDER)
        try:
            config = load(short)
        except FileNotFoundError:
            continue
        if "model" in config:
            yield short, config


def representatives(family: str) -> list[Path]:
    """Configs that stand for a family: a small plain one, then one for each further operator that others bring in."""
    chosen: list[Path] = []
    covered: set[str] = set()
    for path, config in candidates(family):
        operators = types(config.model) & OPERATOR_TYPES
        if not chosen or operators - covered:
            chosen.append(path)
            covered |= operators
    return chosen


def prepare(config: Config) -> Any:
    """The model's config without pretrained weights, with small images and few regions."""
    model = deepcopy(config.model)
    for node in list(nodes(model)):
        initial = node.get("init_cfg") or {}
        if "checkpoint" in initial or "Pretrained" in types(initial):
            node["init_cfg"] = None
        for key in ("pretrained", "teacher_ckpt"):
            if key in node:
                node[key] = False if node.get("type") == "mmpretrain.TIMMBackbone" else None
        if isinstance(node.get("teacher_config"), str):
            node["teacher_config"] = str(FOLDER.parent / node["teacher_config"])
        if "score_thr" in node or node.get("type") == "ScoreHLRSampler":
            node["score_thr"] = 0.0  # an untrained head is sure of nothing
        for key, most in (("num", 64), ("max_per_img", 100)):
            if isinstance(node.get(key), int):
                node[key] = min(node[key], most)
        if node.get("type") == "SyncBN":
            node["type"] = "BN"  # what the runner makes of it on a CPU
        if node.get("type") == "BatchFixedSizePad":
            node["size"] = (SIZE, SIZE)
        if node.get("type") == "BatchResize":
            node["scale"] = (SIZE, SIZE)
    return model


def lighten(model: Any) -> Any:
    """A quarter of the width, narrow fully connected layers, few regions, fewer predictions."""
    for node in nodes(model):
        if str(node.get("type")).endswith("ResNet"):
            node["base_channels"] = 16
        if "in_channels" in node and isinstance(node["in_channels"], (list, tuple)):
            node["in_channels"] = [channels // 4 for channels in node["in_channels"]]
        narrow = {key: 64 for key, value in node.items() if key.endswith("channels") and value == 256}
        node.update(narrow)
        for key, most in (("fc_out_channels", 32), ("deform_fc_channels", 32), ("num", 16), ("max_per_img", 8)):
            if isinstance(node.get(key), int):
                node[key] = min(node[key], most)
    return model


def build(model: Any, data: dict[str, Any]) -> nn.Module:
    """A network with fresh weights, and batch statistics of its backbone that the pretrained ones would have held.

    Most configs never update them, and without them the activations of a deep backbone grow beyond all bounds.
    """
    if "MMSyncBN" in types(model) and not distributed.is_initialized():
        # Its layers ask for their group when they are made.
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    torch.manual_seed(0)
    detector = MODELS.build(deepcopy(model))  # some write into their config
    detector.init_weights()
    detector.train()
    hub = MessageHub.get_current_instance()
    hub.update_info("epoch", 0)
    hub.update_info("iter", 0)
    inputs = detector.data_preprocessor(deepcopy(data), True)["inputs"]
    images = (next(iter(inputs.values())) if isinstance(inputs, dict) else inputs).flatten(0, -4)
    for name, module in detector.named_modules():
        if name.split(".")[-1] == "backbone":
            norms = [
                (m, m.momentum, m.eps, m.training)
                for m in module.modules()
                if isinstance(m, nn.modules.batchnorm._BatchNorm)
            ]
            for norm, _, eps, _ in norms:
                norm.momentum, norm.eps = 1.0, eps or 1e-5  # NAS-FCOS has 0, which torch takes in eval mode alone
                norm.train()
            with torch.no_grad():
                module(images)
            for norm, momentum, eps, training in norms:
                norm.momentum, norm.eps = momentum, eps
                norm.train(training)
                if norm.running_var is not None:  # two images whose maps are one pixel vary by almost nothing
                    norm.running_var.clamp_(min=0.1)
    return detector


def train(detector: nn.Module, data: dict[str, Any], steps: int = 2) -> list[float]:
    """Take plain steps and return their losses, which have to be finite and to reach the parameters."""
    detector.train()
    # Adam's step does not grow with the gradient, which is huge in some fresh networks.
    optimizer = torch.optim.Adam([p for p in detector.parameters() if p.requires_grad], lr=1e-5)
    hub = MessageHub.get_current_instance()
    history = []
    for step in range(steps):
        hub.update_info("iter", step)
        optimizer.zero_grad()
        losses = detector(**detector.data_preprocessor(deepcopy(data), True), mode="loss")
        loss, _ = detector.parse_losses(losses)
        loss.backward()
        grads = [p.grad for p in detector.parameters() if p.grad is not None]
        if not (torch.isfinite(loss) and all(torch.isfinite(grad).all() for grad in grads)):
            raise ValueError(f"loss {loss.item():.4g} or a gradient is not finite")
        if not any(grad.abs().sum() > 0 for grad in grads):
            raise ValueError("no gradient reaches the parameters")
        optimizer.step()
        history.append(loss.item())
    return history


def predict(detector: nn.Module, data: dict[str, Any]) -> None:
    """Run inference on the first image; some detectors take no more at a time."""
    detector.eval()
    data = {key: value[:1] for key, value in data.items()}
    with torch.no_grad():
        detector(**detector.data_preprocessor(deepcopy(data), False), mode="predict")


@contextmanager
def called_operators() -> Iterator[set[str]]:
    """Collect the names of mmcv's operators that run inside of the block."""
    extension = sys.modules["mmcv._ext"]
    called: set[str] = set()

    def recorded(name: str, operator: Operator) -> Operator:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            called.add(name)
            return operator(*args, **kwargs)

        return wrapper

    names = ops.report().operators or dir(extension)
    with wrapped_operators(extension, [name for name in names if not name.startswith(("_", "get_"))], recorded):
        yield called
