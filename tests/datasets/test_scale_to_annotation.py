"""Images scaled to the size of their annotations."""

from __future__ import annotations

import json

from mmdet.datasets import CocoDataset
from mmengine.registry import DefaultScope

from ..helpers.voc_folder import PIPELINE, VOCFolder


def test_images_and_boxes_fit_after_it(voc: VOCFolder) -> None:
    images = [
        {"id": number, "file_name": f"{name}.jpg", "width": width, "height": height}
        for number, (name, width, height) in enumerate((("a", 128, 96), ("b", 64, 48)))
    ]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [32, 24, 16, 12], "area": 192} for n in range(2)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (voc.folder / "all.json").write_text(json.dumps(content))
    load, *rest = PIPELINE
    pipeline = [load, {"type": "kd_mm.ScaleToAnnotation"}, *rest]
    files = {"ann_file": "all.json", "data_root": str(voc.folder), "data_prefix": {"img": "JPEGImages"}}
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = CocoDataset(**files, metainfo={"classes": ("cat",)}, pipeline=pipeline)
        scaled, plain = (dataset[index]["data_samples"] for index in range(2))
    assert (scaled.ori_shape, scaled.scale_factor) == ((96, 128), (1.0, 1.0))
    assert scaled.gt_instances.bboxes.tensor.tolist() == [[32, 24, 48, 36]]
    assert (plain.ori_shape, plain.scale_factor) == ((48, 64), (2.0, 2.0))
    assert plain.gt_instances.bboxes.tensor.tolist() == [[64, 48, 96, 72]]
