"""Upstream's detectors as they come, on samples made here: which configs stand for a family, and two training steps.

Nothing of a model is narrowed; it only loses its pretrained weights, and what would enlarge the images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import mmdet
import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample, ReIDDataSample, TrackDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor, nn

FOLDER = Path(mmdet.__file__).parent / ".mim" / "configs"
SIZE = 128
BOXES = [[8.0, 12, 70, 60], [40, 30, 120, 110], [20, 70, 60, 124]]
# A family's further configs are worth a run where they bring in one of these.
OPERATOR_TYPES = {
    *("CARAFE", "DCN", "DCNv2", "DeformRoIPoolPack", "FPN_CARAFE", "MMSyncBN", "ModulatedDeformRoIPoolPack"),
    *("PISARoIHead", "RoIPool", "SAC", "SimpleRoIAlign", "carafe", "soft_nms"),
}


def names() -> list[str]:
    """Upstream's config families: the folders beside `_base_`."""
    return sorted(p.name for p in FOLDER.iterdir() if p.is_dir() and not p.name.startswith("_"))


def nodes(value: Any) -> Iterator[dict]:
    """All dictionaries inside a config, outermost first."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from nodes(part)


def types(config: Any) -> set[str]:
    return {str(node["type"]) for node in nodes(config) if "type" in node}


# Where the first choice could not train: the RPN alone gets no `num_classes`, trackers take finished detectors.
CHOICE = {
    "cascade_rpn": "cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py",
    "sort": "faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py",
    "strongsort": "yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py",
}


def load(path: Path) -> Config:
    """A config by its path under upstream's folder."""
    return Config.fromfile(FOLDER / path)


def representatives(family: str) -> list[Path]:
    """Configs that stand for a family: a small plain one, then one for each further operator that others bring in.

    Paths are relative to `FOLDER`. Four of upstream's 827 files do not load, for they name others that are not
    there; they stand for nothing.
    """

    def rank(path: Path) -> tuple[bool, bool, int, str]:
        small = re.search(r"r18|r50|tiny|nano|_s_", path.name)
        return path.name != CHOICE.get(family), not small, len(path.name), path.name

    found: dict[Path, set[str]] = {}
    for path in sorted((FOLDER / family).rglob("*.py"), key=rank):
        short = path.relative_to(FOLDER)
        try:
            config = load(short)
        except FileNotFoundError:
            continue
        if "model" in config:
            found[short] = types(config.model) & OPERATOR_TYPES
    chosen: list[Path] = []
    seen: set[str] = set()
    for path, operators in found.items():
        if not chosen or operators - seen:
            chosen.append(path)
            seen |= operators
    return chosen


def prepare(config: Config) -> Any:
    """The model's config without pretrained weights and without what would enlarge the images."""
    model = deepcopy(config.model)
    for node in list(nodes(model)):
        if (node.get("init_cfg") or {}) and "Pretrained" in types(node["init_cfg"]):
            node["init_cfg"] = None
        for key in ("pretrained", "teacher_ckpt"):
            if key in node:
                node[key] = False if node.get("type") == "mmpretrain.TIMMBackbone" else None
        if isinstance(node.get("teacher_config"), str):
            node["teacher_config"] = str(FOLDER.parent / node["teacher_config"])
        if "score_thr" in node:
            node["score_thr"] = 0.0  # an untrained head is sure of nothing
        if node.get("type") == "BatchFixedSizePad":
            node["size"] = (SIZE, SIZE)
        if node.get("type") == "BatchResize":
            node["scale"] = (SIZE, SIZE)
    return model


def _class_count(model: Any) -> int:
    counts = [n[k] for n in nodes(model) for k in ("num_classes", "num_things_classes") if isinstance(n.get(k), int)]
    return min([count for count in counts if count > 0], default=2)


def _masks(size: int, boxes: Tensor) -> BitmapMasks:
    """An ellipse in each box."""
    rows, columns = np.mgrid[:size, :size] + 0.5
    shapes = []
    for x1, y1, x2, y2 in boxes.tolist():
        across, down = (2 * columns - x1 - x2) / (x2 - x1), (2 * rows - y1 - y2) / (y2 - y1)
        shapes.append((across**2 + down**2 <= 1).astype(np.uint8))
    return BitmapMasks(shapes, size, size)


def _image(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def sample(model: Any, size: int = SIZE, seed: int = 0) -> DetDataSample:
    """Annotations of one image: three boxes with masks, a semantic map where asked for, proposals where asked for."""
    shape = (size, size)
    meta = {"img_shape": shape, "ori_shape": shape, "pad_shape": shape, "batch_input_shape": shape}
    meta |= {"scale_factor": (1.0, 1.0), "img_id": seed, "flip": False, "flip_direction": None, "frame_id": 0}
    meta |= {
        "border": (0, size, 0, size),
        "homography_matrix": np.eye(3, dtype=np.float32),
        "img_path": "",
        "video_length": 2,
    }
    result = DetDataSample(metainfo=meta)
    boxes = (torch.tensor(BOXES) + seed) * (size / SIZE)
    labels = torch.arange(len(boxes)) % _class_count(model)
    result.gt_instances = InstanceData(bboxes=boxes, labels=labels, masks=_masks(size, boxes))
    result.gt_instances.instances_ids = torch.arange(len(boxes))
    result.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long(), masks=_masks(size, boxes[:0])
    )
    semantic = torch.zeros(1, size, size, dtype=torch.long)
    semantic[:, size // 2 :] = next((n["num_things_classes"] for n in nodes(model) if "num_things_classes" in n), 0) + 1
    result.gt_sem_seg = PixelData(sem_seg=semantic)
    if model.type == "FastRCNN":
        shifts = torch.tensor([[0.0, 0, 0, 0], [4, -3, 6, 2], [20, 20, -5, 8]])
        proposals = (boxes[:, None] + shifts).flatten(0, 1).clamp(0, size)
        result.proposals = InstanceData(bboxes=proposals, scores=torch.linspace(0.9, 0.1, len(proposals)))
    return result


def _lanes() -> dict[str, Any]:
    """Two road images with two lanes each, packed as `CLRNet` reads them."""
    from mmdet.datasets.transforms.generate_line import LinesToArray

    samples = []
    for shift in (0, 30):
        lanes = [[(100 + shift, 310), (220, 180), (300, 70)], [(600, 310), (520, 160), (470 - shift, 60)]]
        element = BaseDataElement(lines_array=LinesToArray().transform({"lines": lanes})["lines_array"])
        element.org_height, element.org_width = 320, 800
        semantic = torch.zeros(1, 320, 800, dtype=torch.long)
        semantic[..., 100 + shift : 300] = 1
        element.gt_sem_seg = PixelData(sem_seg=semantic)
        samples.append(element)
    return {"inputs": [_image(seed, 3, 320, 800) for seed in range(2)], "data_samples": samples}


def batch(model: Any) -> dict[str, Any]:
    """Two images (video pairs, teacher and student views, or crops of persons) as upstream's loader hands them over."""
    kind = (model.get("data_preprocessor") or {}).get("type")
    if kind == "LineDetDataProcessor":
        return _lanes()
    if kind == "ReIDDataPreprocessor":
        samples = [ReIDDataSample().set_gt_label(person) for person in (0, 0, 1, 1)]
        return {"inputs": _image(0, 4, 3, 2 * SIZE, SIZE), "data_samples": samples}
    if kind == "MultiBranchDataPreprocessor":
        branches = ("sup", "unsup_teacher", "unsup_student")
        return {
            "inputs": {name: [_image(seed, 3, SIZE, SIZE)] for seed, name in enumerate(branches)},
            "data_samples": {name: [sample(model.detector)] for name in branches},
        }
    if kind == "TrackDataPreprocessor" and not model.data_preprocessor.get("use_det_processor"):
        videos = []
        for seed in range(2):
            video = TrackDataSample(metainfo={"key_frames_inds": [0], "ref_frames_inds": [1]})
            video.video_data_samples = [sample(model, seed=seed + step) for step in range(2)]
            videos.append(video)
        return {"inputs": [_image(seed, 2, 3, SIZE, SIZE) for seed in range(2)], "data_samples": videos}
    size = SIZE
    if "SSDVGG" in types(model):
        size = 300  # its last layers have no room on smaller maps
    elif model.get("num_queries", 0) >= 900:
        size = 256  # the queries are chosen among the pixels of the maps
    return {
        "inputs": [_image(seed, 3, size, size) for seed in range(2)],
        "data_samples": [sample(model, size, seed) for seed in range(2)],
    }


def build(model: Any, data: dict[str, Any]) -> nn.Module:
    """A detector with fresh weights, and batch statistics of its backbone that the pretrained ones would have held.

    Most configs never update them, and without them the activations of a deep backbone grow beyond all bounds.
    """
    torch.manual_seed(0)
    detector = MODELS.build(model)
    detector.init_weights()
    detector.train()
    inputs = detector.data_preprocessor(deepcopy(data), True)["inputs"]
    images = (next(iter(inputs.values())) if isinstance(inputs, dict) else inputs).flatten(0, -4)
    for name, module in detector.named_modules():
        if name.split(".")[-1] == "backbone":
            norms = [
                (m, m.momentum, m.training) for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
            ]
            for norm, _, _ in norms:
                norm.momentum = 1.0
                norm.train()
            with torch.no_grad():
                module(images)
            for norm, momentum, training in norms:
                norm.momentum = momentum
                norm.train(training)
    return detector


def train(detector: nn.Module, data: dict[str, Any], steps: int = 2) -> list[float]:
    """Plain steps: loss, backward pass, update.

    Returns:
        The loss of each step.

    Raises:
        ValueError: A loss or a gradient is not finite, or no gradient reaches the parameters.
    """
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


def takes_images(data: dict[str, Any]) -> bool:
    """Whether a model trains on single images, not on videos or on several views."""
    samples = data["data_samples"]
    return isinstance(samples, list) and not isinstance(samples[0], TrackDataSample)
