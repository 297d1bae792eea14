"""Batches of noise with annotations, for timing."""

from __future__ import annotations

from typing import Any

import torch

from kd_mm.tasks import DetectionTask, Task

#: Objects in each image.
OBJECTS = 8


def noise_batch(task: Task, batch_size: int, size: tuple[int, int], classes: int, device: str) -> dict[str, Any]:
    """Return what a data loader gives, already on the device.

    Args:
        task: Says what the annotations are.
        batch_size: B, images.
        size: Height and width in pixels.
        classes: K.
        device: Where everything lies.
    """
    images = torch.randint(0, 256, (batch_size, 3, *size), dtype=torch.uint8, device=device)
    if isinstance(task, DetectionTask):
        samples = [_scene(size, classes).to(device) for _ in range(batch_size)]
        return {"inputs": list(images), "data_samples": samples}
    from mmpretrain.structures import DataSample

    labels = torch.randint(0, classes, (batch_size,)).tolist()
    samples = [DataSample(metainfo={"sample_idx": number}).set_gt_label(one) for number, one in enumerate(labels)]
    return {"inputs": images, "data_samples": [sample.to(device) for sample in samples]}


def _scene(size: tuple[int, int], classes: int) -> Any:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    height, width = size
    corners = torch.rand(OBJECTS, 2) * 0.6
    boxes = torch.cat([corners, corners + 0.1 + 0.3 * torch.rand(OBJECTS, 2)], dim=1)
    boxes = boxes * boxes.new_tensor([width, height, width, height])
    meta = {"img_shape": size, "ori_shape": size, "pad_shape": size, "scale_factor": (1.0, 1.0)}
    sample = DetDataSample(metainfo={**meta, "batch_input_shape": size})
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.randint(0, classes, (OBJECTS,)))
    return sample
