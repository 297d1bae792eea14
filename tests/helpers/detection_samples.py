"""Samples for training any detector of mmdet: images, boxes, masks, semantic maps, videos, lanes, persons."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample, ReIDDataSample, TrackDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor

SIZE = 128
BOXES = [[8.0, 12, 70, 60], [40, 30, 120, 110], [20, 70, 60, 124]]


def nodes(value: Any) -> Iterator[dict]:
    """All dictionaries inside a config, outermost first."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from nodes(part)


def types(config: Any) -> set[str]:
    return {str(node["type"]) for node in nodes(config) if "type" in node}


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
    if "RTMDetSepBNHead" in types(model):  # its pipeline loads boxes alone, and its assigner asks for masks as tensors
        del result.gt_instances.masks
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
    """Two images (video pairs, teacher and student views, or crops of persons) as the data loader returns them."""
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


def takes_images(data: dict[str, Any]) -> bool:
    """Whether a model trains on single images, not on videos or on several views."""
    samples = data["data_samples"]
    return isinstance(samples, list) and not isinstance(samples[0], TrackDataSample)
