"""Data as people have them, through the command line: read as they mean it, or one line before the first step."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ..helpers.tools import Ended, Tools, failed, refused
from ..helpers.voc_folder import COLORS, VOCFolder, draw_shapes, xml
from ..helpers.world import World

#: A small detector on ``shapes/``, by the class and the options of a data set.
CONFIG = """
_base_ = "kd_mm::detection/bccd/retinanet_r18w4_bccd.py"
pipelines = dict(
    train=[
        dict(type="LoadImageFromFile"),
        dict(type="mmdet.LoadAnnotations", with_bbox=True),
        dict(type="mmdet.Resize", scale=(64, 64), keep_ratio=True),
        dict(type="mmdet.PackDetInputs"),
    ],
    val=[
        dict(type="LoadImageFromFile"),
        dict(type="mmdet.Resize", scale=(64, 64), keep_ratio=True),
        dict(type="mmdet.LoadAnnotations", with_bbox=True),
        dict(type="mmdet.PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
    ],
)
shapes = dict(_delete_=True, data_root="shapes/", metainfo=dict(classes=("square", "disc", "bar")), {data})
train_dataloader = dict(
    batch_size=4, num_workers={workers}, persistent_workers=False,
    dataset=dict(**shapes, ann_file="{train}", pipeline=pipelines["train"]),
)
val_dataloader = dict(
    batch_size=4, dataset=dict(**shapes, ann_file="{val}", test_mode=True, pipeline=pipelines["val"])
)
test_dataloader = val_dataloader
param_scheduler = [dict(type="ConstantLR", factor=1.0, by_epoch=True)]
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(logger=dict(interval=1))
"""
VOC = 'type="kd_mm.VOCDataset", data_prefix=dict(sub_data_root="")'
UPSTREAM_VOC = 'type="mmdet.VOCDataset", data_prefix=dict(sub_data_root="")'
COCO = 'type="mmdet.CocoDataset", data_prefix=dict(img="JPEGImages/")'

BOX = "<bndbox><xmin>9</xmin><ymin>9</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
RESIZE, PACK = 'dict(type="mmdet.Resize", scale=(64, 64), keep_ratio=True)', 'dict(type="mmdet.PackDetInputs"),'
#: A small DETR with fewer queries than the 100 boxes of its predictions.
DETR = """
attention = dict(embed_dims=16, num_heads=2)
feedforward = dict(embed_dims=16, feedforward_channels=16)
cross = dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=feedforward)
model = dict(
    _delete_=True, type="mmdet.DETR", num_queries=10, data_preprocessor=dict(type="mmdet.DetDataPreprocessor"),
    backbone=dict(type="mmdet.ResNet", depth=18, base_channels=4, out_indices=(3,)),
    neck=dict(type="mmdet.ChannelMapper", in_channels=[32], kernel_size=1, out_channels=16, num_outs=1),
    encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=feedforward)),
    decoder=dict(num_layers=1, layer_cfg=cross, return_intermediate=True),
    positional_encoding=dict(num_feats=8, normalize=True),
    bbox_head=dict(type="mmdet.DETRHead", num_classes=3, embed_dims=16),
    train_cfg=dict(assigner=dict(
        type="mmdet.HungarianAssigner", match_costs=[dict(type="mmdet.ClassificationCost", weight=1.0)]
    )),
    test_cfg=dict(max_per_img=100),
)
"""

#: A small Cascade R-CNN of two stages.
CASCADE = """
smooth = dict(type="mmdet.L1Loss")
coder = dict(type="mmdet.DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1] * 4)
stage = dict(type="mmdet.Shared2FCBBoxHead", in_channels=16, fc_out_channels=8, reg_class_agnostic=True,
             bbox_coder=coder, loss_cls=dict(type="mmdet.CrossEntropyLoss"), loss_bbox=smooth)
match = dict(
    assigner=dict(type="mmdet.MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.5),
    sampler=dict(type="mmdet.RandomSampler", num=8, pos_fraction=0.5), pos_weight=-1, allowed_border=-1, debug=False,
)
propose = dict(nms_pre=20, max_per_img=10, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0)
model = dict(
    _delete_=True, type="mmdet.CascadeRCNN", data_preprocessor=dict(type="mmdet.DetDataPreprocessor"),
    backbone=dict(type="mmdet.ResNet", depth=18, base_channels=4, out_indices=(2,)),
    neck=dict(type="mmdet.ChannelMapper", in_channels=[16], out_channels=16, num_outs=1),
    rpn_head=dict(
        type="mmdet.RPNHead", in_channels=16, feat_channels=8, bbox_coder=coder, loss_bbox=smooth,
        loss_cls=dict(type="mmdet.CrossEntropyLoss", use_sigmoid=True),
        anchor_generator=dict(type="mmdet.AnchorGenerator", scales=[1], ratios=[1.0], strides=[16]),
    ),
    roi_head=dict(
        type="mmdet.CascadeRoIHead", num_stages=2, stage_loss_weights=[1, 1],
        bbox_roi_extractor=dict(
            type="mmdet.SingleRoIExtractor", roi_layer=dict(type="RoIAlign", output_size=7), out_channels=16,
            featmap_strides=[16],
        ),
        bbox_head=[dict(**stage, num_classes=3), dict(**stage, num_classes=80)],
    ),
    train_cfg=dict(
        rpn=dict(match, sampler=dict(match["sampler"], add_gt_as_proposals=False)), rpn_proposal=propose,
        rcnn=[match, match],
    ),
    test_cfg=dict(rpn=propose, rcnn=dict(score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=10)),
)
"""

MASK_RCNN = """
first = model["roi_head"]["bbox_head"][0]
model.update(type="mmdet.MaskRCNN")
model["roi_head"].update(
    type="mmdet.StandardRoIHead", num_stages=None, bbox_head=first,
    mask_roi_extractor=model["roi_head"]["bbox_roi_extractor"],
    mask_head=dict(type="mmdet.FCNMaskHead", num_convs=1, in_channels=16, conv_out_channels=8, num_classes=3),
)
model["roi_head"] = {key: value for key, value in model["roi_head"].items() if "stage" not in key}
model["train_cfg"]["rcnn"] = dict(model["train_cfg"]["rcnn"][0], mask_size=14)
model["test_cfg"]["rcnn"].update(mask_thr_binary=0.5)
"""
SELF_DISTILLED = """
model = dict(_delete_=True, type="kd_mm.Distiller", student={key: model[key] for key in model if key != "_delete_"},
             recipe=dict(exits=dict(type="kd_mm.CellExit"), losses=dict(aux=dict(type="kd_mm.ExitTaskLoss"))))
"""
MASKS = 'val_evaluator = dict(_delete_=True, type="mmdet.CocoMetric", ann_file="shapes/val.json", metric=["segm"])'


class Shapes:
    """A folder with ``shapes/`` in the layout of Pascal VOC, the same as COCO files, and ``config.py``."""

    def __init__(self, folder: Path) -> None:
        self.root, self.voc = folder, VOCFolder(folder, year="shapes")
        draw_shapes(self.voc, "train", 8, seed=0)
        draw_shapes(self.voc, "val", 4, seed=1)
        self.coco()
        self.config()

    def config(self, data: str = VOC, workers: int = 0) -> None:
        lists = [f"{split}.json" if "Coco" in data else f"ImageSets/Main/{split}.txt" for split in ("train", "val")]
        text = CONFIG
        for key, value in (("data", data), ("workers", str(workers)), ("train", lists[0]), ("val", lists[1])):
            text = text.replace(f"{{{key}}}", value)
        (self.root / "config.py").write_text(text)

    def coco(self, names: tuple[str, ...] = tuple(COLORS), corner: int = 4, scale: float = 1.0) -> None:
        """Write ``train.json`` and ``val.json`` with the categories ``names``."""
        for split, count in (("train", 8), ("val", 4)):
            images = [{"id": i, "file_name": f"{split}{i:03d}.jpg", "width": 64, "height": 64} for i in range(count)]
            boxes = [
                {
                    "id": i,
                    "image_id": i,
                    "category_id": 1 + i % 3,
                    "bbox": [x * scale for x in (corner, corner, 20, 20)],
                }
                for i in range(count)
            ]
            content = {
                "images": images,
                "annotations": [{**box, "area": 400 * scale * scale, "iscrowd": 0} for box in boxes],
                "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
            }
            (self.voc.folder / f"{split}.json").write_text(json.dumps(content))

    def image(self, name: str) -> Path:
        return self.voc.folder / "JPEGImages" / f"{name}.jpg"

    def run(self, tools: Tools, *options: str, tool: str = "train") -> Ended:
        words = ["config.py", "--work-dir", "run", *(["--cfg-options", *options] if options else [])]
        return tools.run(tool, *words, cwd=self.root)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    return Shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture
def shapes(drawn: Shapes, tmp_path: Path) -> Shapes:
    shutil.copytree(drawn.root, tmp_path / "here")
    return Shapes(tmp_path / "here")


def warning(ended: Ended, words: str) -> str:
    assert ended.status == 0, ended.out[-2000:] + ended.err[-2000:]
    return next(line for line in ended.out.splitlines() if "WARNING" in line and words in line)


def shrink(shapes: Shapes) -> None:
    for path in (shapes.voc.folder / "JPEGImages").iterdir():
        Image.open(path).resize((48, 32)).save(path)


def test_lists_images_and_annotations_as_people_write_them(tools: Tools, shapes: Shapes) -> None:
    """All that is read as it was meant, in one run."""
    folder = shapes.voc.folder
    text = "\u200b" + "".join(f"JPEGImages\\train{i:03d}.JPG  {(-1, 0, 1)[i % 3]}\r\n" for i in range(8))
    shapes.voc.split("train", []).write_bytes(text.encode("utf-16"))
    (folder / "classes.txt").write_bytes("\ufeffsquare \r\ndisc\r\nbar\r\n\r\n".encode())
    for number, suffix in enumerate((".TIFF", ".Bmp", ".WEBP")):
        path = shapes.image(f"train{number:03d}")
        Image.open(path).save(path.with_suffix(suffix))
        path.unlink()
    (folder / "Annotations" / "train003.xml").unlink()
    names = (folder / "Annotations" / "train004.xml").read_text()
    odd = names.replace("<annotation>", "<annotation xmlns='urn:x'>").replace(
        "<name>", "<difficult>?</difficult><name>"
    )
    declared = f'<?xml version="1.0" encoding="gb2312"?><!-- 图 -->{odd}'
    (folder / "Annotations" / "train004.xml").write_bytes(declared.encode("gb2312"))
    path = folder / "Annotations" / "train005.xml"
    path.write_text(path.read_text().replace("annotation>", "Annotation>"))
    for number, image in ((5, "val005.png"), (6, "C:\\\\shapes\\\\val001.jpg"), (7, "train007.png")):
        path = folder / "Annotations" / f"train{number:03d}.xml"
        path.write_text(re.sub("(?i)<annotation>", rf"\g<0><filename>{image}</filename>", path.read_text()))
    classes = [f"{part}_dataloader.dataset.metainfo.classes=shapes/classes.txt" for part in ("train", "val", "test")]
    ended = shapes.run(tools, "train_dataloader.dataset.negatives=True", *classes)
    assert "Failed to search registry" not in ended.out
    warning(
        ended, "8 of 8 lines have more than the image's name: -1, 0 and 1 of a list of one class: all images are kept"
    )
    warning(ended, "<difficult> that is neither yes nor no is read as no: ? (")
    line = warning(ended, "annotations whose <filename> is another image of the folder: 1, train006.xml names val001.j")
    assert line.endswith("val001.jpg: were they exchanged?")
    assert "Epoch(train) [1][2/2]" in ended.out
    assert "inf" not in ended.out.lower().replace("info", "")


def test_images_made_smaller_after_labelling(tools: Tools, shapes: Shapes) -> None:
    shrink(shapes)
    refused(
        shapes.run(tools),
        "8 of 8 images are of another size than their <size>: train000 (64x64 in the XML, 48x32 in the image)",
    )
    policy = [f"{part}_dataloader.dataset.size_mismatch=rescale" for part in ("train", "val", "test")]
    warning(shapes.run(tools, *policy), "48x32 in the image), train001")
    for data in (COCO, UPSTREAM_VOC):
        shapes.config(data)
        refused(
            shapes.run(tools),
            "train_dataloader: 8 of 8 images looked at are of another size than their annotations say: ",
            "(64x64 in the annotations, 48x32 in the image)",
        )
        assert warning(shapes.run(tools, "size_mismatch=keep"), "looked at").endswith("both are used as they are")
        assert warning(shapes.run(tools, "size_mismatch=rescale"), "looked at").endswith("the images are scaled")
    refused(
        shapes.run(tools, "size_mismatch=skip"),
        "size_mismatch='skip' is unknown; choose one of 'stop', 'rescale', 'keep'",
    )


def test_boxes_that_the_pipeline_flattens(tools: Tools, shapes: Shapes) -> None:
    """They lie outside of images that were cropped after labelling."""
    for path in (shapes.voc.folder / "JPEGImages").iterdir():
        Image.open(path).crop((0, 0, 32, 32)).save(path)
    shapes.config(COCO)
    shapes.coco(corner=40)
    metric = 'dict(type="mmdet.CocoMetric", ann_file="shapes/train.json", metric="bbox")'
    with (shapes.root / "config.py").open("a") as file:  # which gives nothing for a network that finds no box
        file.write(f"val_evaluator = {metric}\ntest_evaluator = val_evaluator\n")
    ended = shapes.run(tools, "size_mismatch=keep", "default_hooks.checkpoint.save_best=coco/bbox_mAP")
    assert warning(ended, "shapes/train.json, but val_dataloader reads shapes/val.json")
    assert "1 boxes have no width or no height after the pipeline; such boxes are left out" in warning(
        ended, "boxes have"
    )
    assert "inf" not in ended.out.replace("INFO", "").replace("info", "")


def test_photographs_turned_by_their_orientation(tools: Tools, shapes: Shapes) -> None:
    exif = Image.Exif()
    exif[274] = 6
    for path in (shapes.voc.folder / "JPEGImages").iterdir():
        Image.open(path).resize((64, 40)).save(path, exif=exif)
    for path in (shapes.voc.folder / "Annotations").iterdir():
        path.write_text(path.read_text().replace("<height>64<", "<height>40<"))
    refused(
        shapes.run(tools),
        "64x40 in the XML, 40x64 in the image",
        "are read so by LoadImageFromFile(color_type='color_ignore_orientation')",
    )
    parts = [f"{part}_dataloader.dataset" for part in ("train", "val", "test")]
    refused(shapes.run(tools, *(f"{p}.size_mismatch=rescale" for p in parts)), "which scaling does not undo")
    as_labelled = [f"{part}.pipeline.0.color_type=color_ignore_orientation" for part in parts]
    assert shapes.run(tools, *as_labelled).status == 0


def noisy_depth(shapes: Shapes) -> None:
    shutil.rmtree(shapes.voc.folder / "JPEGImages")
    (shapes.voc.folder / "JPEGImages").mkdir()
    for split, count in (("train", 8), ("val", 4)):
        for number in range(count):
            grey = np.random.RandomState(number).randint(0, 4096, (64, 64)).astype(np.uint16)
            Image.fromarray(grey).save(shapes.voc.folder / "JPEGImages" / f"{split}{number:03d}.png")


def floats(shapes: Shapes) -> None:
    path = next(shapes.voc.folder.glob("JPEGImages/train000.*"))
    image = Image.open(path).convert("F")
    path.unlink()
    image.save(path.with_suffix(".tif"))


def test_camera_of_twelve_bits(tools: Tools, shapes: Shapes) -> None:
    noisy_depth(shapes)
    line = warning(shapes.run(tools), "train_dataloader: 8 of 8 images looked at have 16 bits")
    assert "largest value in the first 4 is 15 of 255: nearly black" in line


@pytest.mark.parametrize("suffix", [".tif", ".webp"])
def test_a_scan_of_several_pages(tools: Tools, shapes: Shapes, suffix: str) -> None:
    path = next(shapes.voc.folder.glob("JPEGImages/train000.*"))
    page = Image.open(path).convert("RGB")
    path.unlink()
    page.save(path.with_suffix(suffix), save_all=True, append_images=[page.rotate(90)])
    line = warning(shapes.run(tools), "1 of 8 images looked at have several pages, of which the first is read: ")
    assert line.endswith(f"train000{suffix}")


def rewrite(
    shapes: Shapes, change: Callable[[dict[str, Any]], object], encoding: str = "utf-8", split: str = "train"
) -> None:
    path = shapes.voc.folder / f"{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content), encoding)


def many_images(shapes: Shapes) -> None:
    def repeat(content: dict[str, Any]) -> None:
        (image, *_), (box, *_) = content["images"], content["annotations"]
        content["images"] = [{**image, "id": i, "file_name": f"c{i}.jpg"} for i in range(1200)]
        content["annotations"] = [{**box, "id": i, "image_id": i, "category_id": 1 + i % 3} for i in range(1200)]

    rewrite(shapes, repeat)
    for number in range(1200):
        (shapes.image(f"c{number}")).hardlink_to(shapes.image("train000"))
    shapes.image("c901").unlink()
    Image.open(shapes.image("train000")).resize((32, 32)).save(shapes.image("c901"))


def rename(content: dict[str, Any]) -> None:
    for category, name in zip(content["categories"], "abc", strict=True):
        category["name"] = name


def replace(shapes: Shapes, words: str, others: str) -> None:
    config = shapes.root / "config.py"
    config.write_text(config.read_text().replace(words, others))


def leave_out_everything(shapes: Shapes) -> None:
    step = 'dict(type="mmdet.FilterAnnotations", min_gt_bbox_wh=(99, 99)), dict(type="mmdet.PackDetInputs"),'
    replace(shapes, 'dict(type="mmdet.PackDetInputs"),', step)


def in_all(table: str, **values: Any) -> Callable[[Shapes], object]:
    """Return what sets values in all entries of a table of the training annotations."""
    return lambda shapes: rewrite(shapes, lambda content: [entry.update(values) for entry in content[table]])


def in_front_of_names(words: str) -> Callable[[Shapes], object]:
    """Return what puts words in front of the names of the training images in their COCO file."""

    def change(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["file_name"] = words + image["file_name"]

    return lambda shapes: rewrite(shapes, change)


def number_from_four_on(content: dict[str, Any]) -> None:
    for image in content["images"][4:]:
        image["id"] -= 4


def few_queries(shapes: Shapes) -> None:
    with (shapes.root / "config.py").open("a") as file:
        file.write(DETR)


def cascade(shapes: Shapes, distilled: bool = False) -> None:
    with (shapes.root / "config.py").open("a") as file:
        file.write(CASCADE + (SELF_DISTILLED if distilled else ""))


def masked(shapes: Shapes) -> None:
    """Let the network be a Mask R-CNN, one stage of the cascade with a head for masks."""
    cascade(shapes)
    with (shapes.root / "config.py").open("a") as file:
        file.write(MASK_RCNN)


def mix(step: str, masked: bool = True) -> Callable[[Shapes], object]:
    """Return what puts a step that mixes images around training images with masks."""
    mixing = f"""
load = dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask={masked})
inner = dict({COCO}, data_root="shapes/", ann_file="train.json", pipeline=[dict(type="LoadImageFromFile"), load],
             metainfo=dict(classes=("square", "disc", "bar")))
train_dataloader["dataset"] = dict(_delete_=True, type="mmdet.MultiImageMixDataset", dataset=inner, pipeline=[
    dict(type="mmdet.{step}"), *pipelines["train"][2:]])
"""

    def change(shapes: Shapes) -> None:
        in_all("annotations", segmentation=[[4, 4, 24, 4, 24, 24]])(shapes)
        with (shapes.root / "config.py").open("a") as file:
            file.write(mixing)

    return change


def load_after_resizing(shapes: Shapes) -> None:
    load, resize = (
        'dict(type="mmdet.LoadAnnotations", with_bbox=True)',
        'dict(type="mmdet.Resize", scale=(64, 64), keep',
    )
    text, larger = (shapes.root / "config.py").read_text(), resize.replace("64", "96")
    first = text.index(load)
    text = text[:first] + larger + "_ratio=True),\n        " + text[first:]
    (shapes.root / "config.py").write_text(text)


def resize_last(shapes: Shapes) -> None:
    """Let the validation load its objects first, as a training does."""
    text = (shapes.root / "config.py").read_text()
    text, validation = text.split("val=[")
    load = 'dict(type="mmdet.LoadAnnotations", with_bbox=True)'
    assert f"{RESIZE},\n        {load}" in validation
    validation = validation.replace(f"{RESIZE},\n        {load}", f"{load}, {RESIZE.replace('64', '96')}")
    (shapes.root / "config.py").write_text(f"{text}val=[{validation}")


def join_validations(shapes: Shapes) -> None:
    """Validate on two COCO files of which each counts its images from 0."""
    joined = """
two = [dict(type="mmdet.CocoDataset", data_root="shapes/", data_prefix=dict(img="JPEGImages/"), ann_file=name,
            metainfo=dict(classes=("square", "disc", "bar")), test_mode=True, pipeline=pipelines["val"])
       for name in ("val.json", "train.json")]
val_dataloader = dict(batch_size=4, dataset=dict(_delete_=True, type="mmengine.ConcatDataset", datasets=two))
test_dataloader = val_dataloader
"""
    with (shapes.root / "config.py").open("a") as file:
        file.write(joined + MASKS.replace("segm", "bbox"))


def join_orders(shapes: Shapes) -> None:
    """Train on a set twice, its classes in two orders, by mmdet's joining, which does not compare them."""
    joined = """
one = {key: value for key, value in train_dataloader["dataset"].items() if key != "_delete_"}
two = dict(one, metainfo=dict(classes=("disc", "square", "bar")))
train_dataloader["dataset"] = dict(_delete_=True, type="mmdet.ConcatDataset", datasets=[one, two])
"""
    with (shapes.root / "config.py").open("a") as file:
        file.write(joined)


def move_boxes(shapes: Shapes) -> None:
    for path in (shapes.voc.folder / "Annotations").glob("train*"):
        path.write_text(xml([("disc", (70, 4, 90, 20))], size="<width>64</width><height>64</height>"))


class Wrong:
    """What ends in one line with these words: a changed folder, or overrides, by the data set that reads it."""

    def __init__(
        self,
        *words: str,
        data: str = VOC,
        change: Callable[[Shapes], object] = lambda shapes: None,
        options: Sequence[str] = (),
    ) -> None:
        self.words, self.data, self.change, self.options = words, data, change, options


WrongCoco = partial(Wrong, data=COCO)
REFUSED: dict[str, Wrong] = {
    "class list forgotten": WrongCoco(
        "no object of 8 images is of the class list (cat, dog); the annotations have square, disc, bar",
        options=["train_dataloader.dataset.metainfo.classes=[cat,dog]"],
    ),
    "class list forgotten, empty images filtered": WrongCoco(
        "no object of 8 images is of the class list (cat, dog); the annotations have square, disc, bar",
        options=[
            "train_dataloader.dataset.metainfo.classes=[cat,dog]",
            "train_dataloader.dataset.filter_cfg.filter_empty_gt=True",
        ],
    ),
    "a COCO file without areas": WrongCoco(
        "train_dataloader: shapes/train.json: 8 of its 8 annotations (id 0 first) have no 'area', which is width times",
        change=lambda shapes: rewrite(shapes, lambda content: [box.pop("area") for box in content["annotations"]]),
    ),
    "a COCO file that is a list": WrongCoco(
        "shapes/train.json: it has no list 'images', as a COCO file has",
        change=lambda shapes: (shapes.voc.folder / "train.json").write_text('[{"id": 1}]'),
    ),
    "classes under mmdet 2's key": WrongCoco(
        "metainfo=dict(CLASSES=...): nothing reads 'CLASSES', did you mean 'classes'?",
        options=["train_dataloader.dataset.metainfo.CLASSES=[square]"],
    ),
    "an image of 32-bit numbers": Wrong(
        "train000.tif; one of 32 bits is read by color_type='unchanged' alone: convert it", change=floats
    ),
    "a class list that is one text": WrongCoco(
        "no object of 8 images is of the class list (square disc bar); the annotations have square, disc, bar",
        change=lambda shapes: replace(shapes, '("square", "disc", "bar")', '"square disc bar"'),
    ),
    "every object a crowd": WrongCoco(
        "train_dataloader: all 8 objects of its 8 images are marked as difficult, as a crowd (iscrowd) or as too ",
        change=in_all("annotations", iscrowd=1),
    ),
    "boxes of other images, read by upstream": Wrong(
        "train_dataloader: all 8 objects of its 8 images are",
        "or have no area inside of their image",
        data=UPSTREAM_VOC,
        change=move_boxes,
    ),
    "areas of 0": WrongCoco(
        "of 8 boxes of the class list there are 8 with an 'area' of 0, which is to be width times height",
        change=in_all("annotations", area=0),
    ),
    "two images of one number": WrongCoco(
        "train_dataloader: shapes/train.json: 4 ids are those of two images (0, 1, 2, 3): number them anew",
        change=lambda shapes: rewrite(shapes, number_from_four_on),
    ),
    "two categories of one number": WrongCoco(
        "train_dataloader: shapes/train.json: 1 ids are those of two categories (1): number them anew",
        change=lambda shapes: rewrite(shapes, lambda content: content["categories"].append({"id": 1, "name": "star"})),
    ),
    "annotations that count the categories from 0": WrongCoco(
        "category_id of the annotations is from 0 to 2, id of the categories from 1 to 3: number them alike",
        change=lambda shapes: rewrite(
            shapes, lambda content: [box.update(category_id=box["category_id"] - 1) for box in content["annotations"]]
        ),
    ),
    "images of another machine": WrongCoco(
        "/home/anna/pictures/train000.jpg does not exist (missing are 8 of 8",
        "but shapes/JPEGImages/train000.jpg does: name it so",
        change=in_front_of_names("/home/anna/pictures/"),
    ),
    "images by their address": WrongCoco(
        "JPEGImages/http://images.org/train/train000.jpg does not exist (missing are 8 of 8",
        "but shapes/JPEGImages/train000.jpg does: name it so",
        change=in_front_of_names("http://images.org/train/"),
    ),
    "a step that mixes images, by itself": Wrong(
        "MixUp fails on ",
        ": it mixes several images: put it into the pipeline of a MultiImageMixDataset around the data set",
        change=lambda shapes: replace(
            shapes, f"{RESIZE},\n        {PACK}", f'dict(type="mmdet.MixUp", img_scale=(64, 64)), {RESIZE}, {PACK}'
        ),
    ),
    "masks that are not mixed": WrongCoco(
        "train_dataloader: Mosaic mixes boxes and no masks: take CachedMosaic, or with_mask=True out of ",
        change=mix("Mosaic"),
    ),
    "masks to be pasted that are not loaded": WrongCoco(
        "train_dataloader: CopyPaste needs masks of pixels: set with_mask=True and poly2mask=True of LoadAnnotations",
        change=mix("CopyPaste", masked=False),
    ),
    "annotations that are packed": WrongCoco(
        "shapes/train.json: it is not JSON (shapes/train.json is a zip archive: unpack it)",
        change=lambda shapes: (shapes.voc.folder / "train.json").write_bytes(b"PK\x03\x04\xe9\xff"),
    ),
    "boxes loaded after resizing": Wrong(
        "train_dataloader: Resize comes before LoadAnnotations, and so leaves the boxes as they are: load first",
        change=load_after_resizing,
    ),
    "a folder named twice": WrongCoco(
        "JPEGImages/JPEGImages/train000.jpg does not exist (missing are 8 of 8",
        "but shapes/JPEGImages/train000.jpg does",
        change=lambda shapes: rewrite(
            shapes,
            lambda content: [each.update(file_name=f"JPEGImages/{each['file_name']}") for each in content["images"]],
        ),
    ),
    "a list of images in the folder above": WrongCoco(
        "shapes/train.json does not exist, did you mean 'Train.json'?",
        change=lambda shapes: (shapes.voc.folder / "train.json").rename(shapes.voc.folder / "Train.json"),
    ),
    "a COCO file without sizes": WrongCoco(
        "shapes/train.json: 1 of its 8 images (id 0 first) have no 'height': write it there",
        change=lambda shapes: rewrite(shapes, lambda content: content["images"][0].pop("height")),
    ),
    "a COCO file with a byte order mark": WrongCoco(
        "shapes/train.json: it begins with a byte order mark or is UTF-16: save it as UTF-8 without a mark",
        change=lambda shapes: rewrite(shapes, lambda content: None, "utf-8-sig"),
    ),
    "validation of other categories": WrongCoco(
        "no object of 4 images is of the class list (square, disc, bar); the annotations have a, b, c",
        change=lambda shapes: [shapes.coco(), rewrite(shapes, rename, split="val")],
    ),
    "names in another case, XML read by upstream": Wrong(
        "no object of 8 images is of the class list (Square, Disc, Bar); the annotations have ",
        data=UPSTREAM_VOC,
        options=["train_dataloader.dataset.metainfo.classes=[Square,Disc,Bar]"],
    ),
    "images named in another case": WrongCoco(
        "(missing are 8 of 8 images looked for), but shapes/JPEGImages/train000.JPG does: name it so in the ",
        change=lambda shapes: [path.rename(path.with_suffix(".JPG")) for path in (shapes.image("x").parent).iterdir()],
    ),
    "images named in upper case": WrongCoco(
        "(missing are 8 of 8 images looked for), but shapes/JPEGImages/TRAIN000.JPG does: name it so in the ",
        change=lambda shapes: [
            path.rename(path.with_name(path.name.upper())) for path in shapes.image("x").parent.iterdir()
        ],
    ),
    "a step that leaves out everything": Wrong(
        "train_dataloader: FilterAnnotations of the pipeline leaves out each of the first 8 samples with objects",
        change=leave_out_everything,
    ),
    "fractions in a COCO file": WrongCoco(
        "no object of the class list (square, disc, bar) can be learned in 8 images",
        "there are 8 narrower or lower than a pixel: write bbox in pixels",
        change=lambda shapes: shapes.coco(scale=1 / 64),
    ),
    "two corners in a COCO file": WrongCoco(
        "train_dataloader: shapes/train.json: the 'area' of all 8 boxes is that between two corners: write bbox as ",
        change=lambda shapes: rewrite(
            shapes, lambda content: [box.update(bbox=[4, 4, 24, 24]) for box in content["annotations"]]
        ),
    ),
    "classes in another order than the categories": WrongCoco(
        "CocoDataset numbers its categories in their own order (disc, square, bar)",
        "'disc' is labelled 'square'",
        change=lambda shapes: shapes.coco(names=("disc", "square", "bar")),
    ),
    "a category with a blank that no line breaks at": WrongCoco(
        "the class list names 'bar a', shapes/train.json 'bar\\xa0a': write it alike in both",
        change=lambda shapes: [
            shapes.coco(names=("square", "disc", "bar\u00a0a")),
            replace(shapes, '"bar")', '"bar a")'),
        ],
    ),
    "categories that lack a class": WrongCoco(
        "in their own order (disc, bar), the class list is square, disc, bar, so 'disc' is labelled 'square'",
        change=lambda shapes: shapes.coco(names=("disc", "bar", "star")),
    ),
    "another order in validation": Wrong(
        "its 3 classes are not the 3 of the training data: the order is another, class 0 is 'disc' here",
        options=["val_dataloader.dataset.metainfo.classes=[disc,square,bar]"],
    ),
    "masks, in a worker": Wrong(
        "train_dataloader (VOCDataset): LoadAnnotations fails on ",
        "train000.jpg: an object there has no 'mask': give it one, or take with_mask=True",
        change=lambda shapes: shapes.config(VOC, workers=1),
        options=["train_dataloader.dataset.pipeline.1.with_mask=True"],
    ),
    "a validation that resizes its objects": Wrong(
        "val_dataloader: a step behind LoadAnnotations moves the objects of shapes/JPEGImages/val000.jpg, and ",
        "put LoadAnnotations behind the steps that resize or flip",
        change=resize_last,
    ),
    "two files that count their images alike": WrongCoco(
        "val_evaluator: CocoMetric tells images apart by their ids, and 4 are those of two images (",
        "(0, 1, 2, 3): take kd_mm.DetectionMetric, or evaluate joined sets one by one",
        change=join_validations,
    ),
    "a folder of images as a word": WrongCoco(
        "data_prefix='JPEGImages/': write the folder of the images as data_prefix=dict(img='FOLDER/')",
        change=lambda shapes: replace(shapes, 'dict(img="JPEGImages/")', '"JPEGImages/"'),
    ),
    "a folder of images under mmpretrain's key": WrongCoco(
        "data_prefix={'img_path': 'JPEGImages/'}: write the folder of the images as ",
        change=lambda shapes: replace(shapes, "img=", "img_path="),
    ),
    "a class list without an order": Wrong(
        "classes is a set ({",
        "}): write the names in their order, as classes=('cat', 'dog')",
        change=lambda shapes: replace(shapes, '("square", "disc", "bar")', '{"square", "disc", "bar"}'),
    ),
    "a cascade of which one stage was forgotten": Wrong(
        "the heads predict other numbers of classes (model.roi_head.bbox_head.0.num_classes=3, ",
        "model.roi_head.bbox_head.1.num_classes=80): set one for all",
        change=cascade,
    ),
    "another number of classes in the student of a distillation's cascade": Wrong(
        "the heads predict other numbers of classes (model.roi_head.bbox_head.0.num_classes=3, ",
        change=lambda shapes: cascade(shapes, distilled=True),
    ),
    "a polygon without brackets": WrongCoco(
        "objects looked at there are 1 with numbers where a list of polygons is: write [[x1, y1, x2, y2, ...]] (",
        change=lambda shapes: [
            in_all("annotations", segmentation=[[4, 4, 24, 4, 24, 24]])(shapes),
            rewrite(shapes, lambda content: content["annotations"][7].update(segmentation=[4, 4, 24, 4, 24, 24])),
        ],
        options=["train_dataloader.dataset.pipeline.1.with_mask=True"],
    ),
    "two boxes in one object": Wrong(
        "train000.xml: object 1 (square) has 2 <bndbox>: give each box an <object>",
        change=lambda shapes: shapes.voc.annotate(
            "train000", xml([("square", (1, 1, 9, 9))]).replace("</object>", f"{BOX}</object>")
        ),
    ),
    "a size that no image has": WrongCoco(
        "train_dataloader: mmdet.CocoDataset(",
        "filter_cfg={'min_size': 65}) has no sample",
        options=["train_dataloader.dataset.filter_cfg.min_size=65"],
    ),
    "a list that is a folder": Wrong(
        "list of images not found: looked for ",
        "(it is a folder)",
        options=["train_dataloader.dataset.ann_file=ImageSets/Main"],
    ),
    "a COCO file as the list of images": Wrong(
        'train.json is no list of images (it begins with \'{"images": [{"id": 0\')',
        options=["train_dataloader.dataset.ann_file=train.json"],
    ),
    "a list of images as the COCO file": WrongCoco(
        "shapes/ImageSets/Main/train.txt: it is not JSON (Expecting value: line 1 column 1",
        options=["train_dataloader.dataset.ann_file=ImageSets/Main/train.txt"],
    ),
    "every object difficult": Wrong(
        "each of the ",
        "train.txt is marked by <difficult>, and such objects are neither learned nor scored",
        change=lambda shapes: [
            path.write_text(path.read_text().replace("</name>", "</name><difficult>2</difficult>"))
            for path in (shapes.voc.folder / "Annotations").glob("train*")
        ],
    ),
    "no object at all": Wrong(
        "no object of 8 images is of the class list (square, disc, bar); the annotations hold no object",
        change=lambda shapes: [path.unlink() for path in (shapes.voc.folder / "Annotations").glob("train*")],
        options=["train_dataloader.dataset.negatives=True"],
    ),
    "a start from a folder": Wrong("checkpoint shapes is a folder; name a file", options=["load_from=shapes"]),
    "images of one channel for a network of three": Wrong(
        "train_dataloader: DetDataPreprocessor fails on shapes/JPEGImages/train000.jpg: AssertionError: ",
        "do the images have as many channels as its mean?",
        options=["train_dataloader.dataset.pipeline.0.color_type=grayscale"],
    ),
    "samples packed for a classifier": Wrong(
        "train001.jpg are of DataSample: let the pipeline end in dict(type='mmdet.Pack",
        data=UPSTREAM_VOC,
        options=["train_dataloader.dataset.pipeline.3.type=mmpretrain.PackInputs"],
    ),
    "a validation without scale_factor": WrongCoco(
        "val_dataloader: the samples of shapes/JPEGImages/val000.jpg",
        " have no scale_factor, by which boxes return",
        options=["val_dataloader.dataset.pipeline.3.meta_keys=[img_id,img_path,ori_shape,img_shape]"],
    ),
    "a validation without any object": WrongCoco(
        "val_dataloader: no object of 4 images is of the class list",
        "; the annotations hold no object",
        change=lambda shapes: rewrite(shapes, lambda content: content.update(annotations=[]), split="val"),
    ),
    "a validation file without annotations": WrongCoco(
        "no object of 4 images",
        "; shapes/val.json: it has no list 'annotations', as a COCO file has",
        change=lambda shapes: rewrite(shapes, lambda content: content.pop("annotations"), split="val"),
    ),
    "masks compared of a network of boxes": WrongCoco(
        "val_evaluator: metric='segm' compares masks, and the network gives none: set metric='bbox'",
        change=lambda shapes: replace(shapes, "param_scheduler =", f"{MASKS}\nparam_scheduler ="),
    ),
    "one image of another size, late in the list": WrongCoco(
        "1 of 1200 images looked at are of another size than",
        "c901.jpg (64x64 in the annotations, 32x32 in the ima",
        change=many_images,
    ),
    "width and height exchanged": Wrong(
        "(64x80 in the XML, 80x64 in the image)",
        "their width and height are exchanged, which 'keep' is for if the bo",
        change=lambda shapes: (
            [Image.open(p).resize((80, 64)).save(p) for p in shapes.image("x").parent.iterdir()]
            and [
                p.write_text(p.read_text().replace("<height>64<", "<height>80<"))
                for p in (shapes.voc.folder / "Annotations").iterdir()
            ]
        ),
    ),
    "sizes of 0": WrongCoco(
        "(0x0 in the annotations, 64x64 in the image)",
        "; write the images' width and height there",
        change=in_all("images", width=0, height=0),
        options=["size_mismatch=rescale"],
    ),
    "a list in another case": Wrong(
        "TRAIN000.jpg, nor with another ending, but train000.jpg is there: write it alike)",
        "4 more; repair or rename them  (",
        change=lambda shapes: shapes.voc.split("train", [f"TRAIN{number:03d}" for number in range(8)]),
    ),
    "a folder for an annotation": Wrong(
        "train001 (shapes/Annotations/train001.xml is a folder, not an annotation file)",
        change=lambda shapes: [
            (path := shapes.voc.folder / "Annotations" / "train001.xml").unlink(),
            path.mkdir(),
        ],
        options=["train_dataloader.dataset.negatives=True"],
    ),
    "annotations that mmdet's own data set does not read": Wrong(
        "train_dataloader: mmdet.VOCDataset fails on its annotations (ValueError: invalid literal for int() with base",
        "): take kd_mm.VOCDataset, which reads more of them and names the file",
        data=UPSTREAM_VOC,
        change=lambda shapes: [
            path.write_text(path.read_text().replace("</name>", "</name><difficult>Unspecified</difficult>"))
            for path in (shapes.voc.folder / "Annotations").glob("train*")
        ],
    ),
    "a list of two columns for mmdet's own data set": Wrong(
        "train000  1.xml does not exist",
        "; lists with columns or endings are read by kd_mm.VOCDataset alone",
        data=UPSTREAM_VOC,
        change=lambda shapes: [
            (path := shapes.voc.folder / "ImageSets" / "Main" / "train.txt").write_text(
                path.read_text().replace("\n", "  1\n")
            )
        ],
    ),
    "joined sets whose classes are in another order": Wrong(
        "train_dataloader: its 3 classes are not the 3 of the first of the joined data sets: the order is another",
        change=lambda shapes: join_orders(shapes),
    ),
    "an image that is validated on twice": WrongCoco(
        "val_evaluator: image shapes/JPEGImages/val001.jpg is evaluated 2 times: every image counts once; is it listed",
        change=lambda shapes: rewrite(
            shapes, lambda content: content["images"][0].update(file_name="val001.jpg"), split="val"
        ),
    ),
    "a link that leads nowhere": WrongCoco(
        "train_dataloader: shapes/JPEGImages/train001.jpg is a link to /old/train001.jpg, which is not there (missing",
        change=lambda shapes: [
            shapes.image("train001").unlink(),
            shapes.image("train001").symlink_to("/old/train001.jpg"),
        ],
    ),
    "no size of the images for the head": Wrong(
        "train_dataloader: the samples of ",
        "have no img_shape: add the word to meta_keys of PackDetInputs",
        change=lambda shapes: replace(shapes, PACK, PACK.replace('"),', '", meta_keys=("img_id", "img_path")),')),
    ),
    "a metric without its package": WrongCoco(
        "val_evaluator: install the package faster_coco_eval, or take mmdet.CocoMetric",
        change=lambda shapes: replace(
            shapes,
            "param_scheduler =",
            MASKS.replace("Coco", "FasterCoco").replace("segm", "bbox") + "\nparam_scheduler =",
        ),
    ),
    "annotations that say nothing of iscrowd": WrongCoco(
        "val_evaluator: shapes/val.json: 3 annotations have no 'iscrowd', which CocoMetric reads: set it to 0",
        change=lambda shapes: [
            replace(shapes, "param_scheduler =", f"{MASKS.replace('segm', 'bbox')}\nparam_scheduler ="),
            rewrite(shapes, lambda content: [box.pop("iscrowd") for box in content["annotations"][1:]], split="val"),
        ],
    ),
    "masks compared with annotations of boxes": WrongCoco(
        "val_evaluator: shapes/val.json: 4 annotations have no 'segmentation', which CocoMetric reads: write one",
        change=lambda shapes: [
            masked(shapes),
            replace(shapes, "param_scheduler =", f"{MASKS}\nparam_scheduler ="),
            in_all("annotations", segmentation=[[4, 4, 24, 4, 24, 24]])(shapes),
        ],
        options=["train_dataloader.dataset.pipeline.1.with_mask=True"],
    ),
    "no masks for a network that learns them": WrongCoco(
        "train_dataloader: the samples of shapes/JPEGImages/train00",
        "have no masks, and the network learns them: add with_mask=True to LoadAnnotations of its pipeline",
        change=lambda shapes: masked(shapes),
    ),
    "annotations with ids of text": WrongCoco(
        "val_evaluator: shapes/val.json: annotations have ids that are text: number them from 1",
        change=lambda shapes: [
            replace(shapes, "param_scheduler =", f"{MASKS.replace('segm', 'bbox')}\nparam_scheduler ="),
            rewrite(
                shapes,
                lambda content: [box.update(id=f"a{i}") for i, box in enumerate(content["annotations"])],
                split="val",
            ),
        ],
    ),
    "a shorter class list of the validation": Wrong(
        "val_dataloader: its 2 classes are not the 3 of the training data: it lacks 'bar'; give both the same list",
        options=["val_dataloader.dataset.metainfo.classes=[square,disc]"],
    ),
    "an evaluator's option": WrongCoco(
        "val_evaluator: mmdet.CocoMetric(ann_file='shapes/val.json', metric=['mAP']) fails: KeyError: metric should",
        change=lambda shapes: replace(
            shapes, "param_scheduler =", f"{MASKS.replace('segm', 'mAP')}\nparam_scheduler ="
        ),
    ),
    "a neck that asserts without words": Wrong(
        "AssertionError in ",
        "fpn.py, line ",
        ": assert num_outs >= self.num_ins - start_level",
        options=["model.neck.start_level=0"],
    ),
    "fractions in XML": Wrong(
        "none of the 8 boxes of ",
        "fractions of the image?",
        change=lambda shapes: [
            path.write_text(xml([("disc", (0.1, 0.1, 0.5, 0.9))], size=""))
            for path in (shapes.voc.folder / "Annotations").iterdir()
        ],
    ),
    "a file of annotations that is a folder": WrongCoco(
        "JPEGImages is a folder: name a file in it", options=["train_dataloader.dataset.ann_file=JPEGImages"]
    ),
    "a score in per cent": Wrong(
        "model.test_cfg.score_thr: 50 is a share above 1; write 0.5 for 50 %", options=["model.test_cfg.score_thr=50"]
    ),
    "channels of a detector": Wrong(
        "train_dataloader: the images of ",
        " have 3 channels, the network takes 4: set in_channels of its backbone",
        options=["model.backbone.in_channels=4"],
    ),
    "levels of neck and head": Wrong(
        "model: the neck gives 4 maps, and the head has 3 strides: set num_outs of the neck",
        options=["model.neck.num_outs=4"],
    ),
    "more boxes than queries": Wrong(
        "val_dataloader: the network has fewer queries than boxes to predict: set test_cfg.max_per_img (100 b",
        change=few_queries,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(tools: Tools, shapes: Shapes, case: str) -> None:
    wrong = REFUSED[case]
    shapes.config(wrong.data)
    wrong.change(shapes)
    refused(shapes.run(tools, *wrong.options), *wrong.words)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_fails_later_is_named(tools: Tools, shapes: Shapes, workers: int) -> None:
    shapes.config(UPSTREAM_VOC, workers)
    shapes.image("train005").write_bytes(b"\xff\xd8 nothing between\xff\xd9")
    line = failed(shapes.run(tools), "train005.jpg: AssertionError: failed to load image")
    assert line.startswith("error: train_dataloader (VOCDataset): LoadImageFromFile fails on ")


def test_class_without_an_object_is_mentioned(tools: Tools, shapes: Shapes) -> None:
    for path in (shapes.voc.folder / "Annotations").iterdir():
        path.write_text(path.read_text().replace("bar", "disc"))
    ended = shapes.run(tools, "model.bbox_head.num_classes=7")
    warning(ended, "train_dataloader: 1 of 3 classes have no object: bar")
    warning(ended, "val_dataloader: 1 of 3 classes have no object: bar")
    sizes = "the data set has 3 classes (square, disc, bar), the network predicts 7: "
    for key, words in (
        ("train", "set model.bbox_head.num_classes=3 unless the others are meant to stay untrained"),
        ("val", "a prediction of another class cannot be scored: set model.bbox_head.num_classes=3"),
    ):
        assert warning(ended, f"{key}_dataloader: {sizes}").endswith(words)


def test_anchors_that_fit_no_object(tools: Tools, shapes: Shapes) -> None:
    cascade(shapes)
    heads = [f"model.roi_head.bbox_head.{stage}.num_classes=3" for stage in (0, 1)]
    assert "of its anchors" not in shapes.run(tools, *heads).out
    line = warning(shapes.run(tools, *heads, "model.rpn_head.anchor_generator.scales=[16]"), "none of its anchors")
    assert re.search(r"model\.rpn_head: of (\d+) objects of the first batch \1, in the median ", line), line
    assert "of 256 to 256 pixels, by 0.5: set scales or ratios of anchor_generator" in line


def test_boxes_that_upstream_leaves_out(tools: Tools, shapes: Shapes) -> None:
    """With names of images and classes as other programs write them, and the mean of images between 0 and 1."""
    shapes.config(COCO)
    rewrite(shapes, lambda content: [box.update(area=0) for box in content["annotations"][:3]])
    rewrite(shapes, lambda content: content["annotations"][3].update(category_id=77))
    rewrite(shapes, lambda content: content["annotations"][7].update(ignore=1))
    rewrite(shapes, lambda content: content["annotations"][6].update(iscrowd="0"))
    rewrite(shapes, lambda content: content["annotations"][4].update(bbox=[4, 4, float("nan"), 20]))
    rewrite(shapes, lambda content: content["images"].append({**content["images"][0], "id": 9}))
    rewrite(shapes, lambda content: content["annotations"].append({**content["annotations"][5], "id": 9}))
    (shapes.root / "names.txt").write_text("# mine\n1: square\n2: disc\n3: bar\n")
    names = [f"{part}_dataloader.dataset.metainfo.classes=names.txt" for part in ("train", "val", "test")]
    ended = shapes.run(tools, *names, "model.data_preprocessor.std=[0.2,0.2,0.2]")
    line = warning(ended, "train.json: of 9 boxes of the class list there are 3 with an 'area' of 0, ")
    assert "1 of a category that is not in the list, 1 with a number that is not finite" in line
    assert line.endswith("1 with text for 'iscrowd', which counts as a crowd, 1 with 'ignore' set; they are left out")
    assert "train_dataloader: 1 images are listed more than once, each" in warning(ended, "listed")
    assert "train_dataloader: 1 boxes of 1 of 9 images looked at are there twice" in warning(ended, "twice")
    assert "are mean and std those of pixels from 0 to 255, and applied once?" in warning(ended, "have values up to")


def test_augmentation_in_a_test_of_masks(tools: Tools, shapes: Shapes) -> None:
    shapes.config(COCO)
    masked(shapes)
    torch.save({"state_dict": {"a": torch.zeros(1)}}, shapes.root / "a.pth")
    refused(tools.run("test", "config.py", "a.pth", "--tta", cwd=shapes.root), "--tta: mmdet merges the boxes of augm")


def test_habits_of_other_versions_and_programs(tools: Tools, shapes: Shapes) -> None:
    """Keys of mmcv 1, annotations that count from 0, and the steps of a training in a validation."""
    shapes.config(COCO)
    replace(shapes, "val=[", 'val=[dict(type="LoadImageFromFile"), dict(type="mmdet.RandomFlip", prob=0.5),')
    with (shapes.root / "config.py").open("a") as file:
        file.write(f"{MASKS.replace('segm', 'bbox')}\nevaluation = dict(interval=2)\noptimizer = dict(lr=0.5)\n")
        file.write("data = dict(lr=1e-4)\noptim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', **data))\n")
    as_trained = ["test_mode=False", "filter_cfg.filter_empty_gt=True"]
    as_trained = [f"val_dataloader.dataset.{option}" for option in as_trained]
    ended = shapes.run(tools, *as_trained, "val_dataloader.batch_size=3", "val_dataloader.drop_last=True")
    assert warning(ended, "val_dataloader: its filter_cfg leaves images out of the evaluation: set test_mode=True")
    assert warning(ended, "'optimizer'").endswith("nothing reads 'optimizer': write optim_wrapper")
    assert warning(ended, "'evaluation'").endswith(": write val_cfg")
    assert warning(ended, "val_dataloader: drop_last=True leaves the images of the last batch out of the evaluation")
    line = warning(ended, "pycocotools counts the object whose annotation has the id 0 as never found")
    assert "val_evaluator.ann_file: shapes/val.json: " in line
    line = warning(ended, "RandomFlip moves the objects of an image")
    assert "val_dataloader: " in line
    assert "predictions are not moved back" in line


def test_endings_that_windows_gives(tools: Tools, shapes: Shapes) -> None:
    for path in [*(shapes.voc.folder / "Annotations").iterdir(), *(shapes.voc.folder / "JPEGImages").iterdir()]:
        path.rename(path.with_suffix(".XML" if path.suffix == ".xml" else ".jfif"))
    ended = shapes.run(tools)
    assert ended.status == 0, ended.err
    assert "Epoch(train) [1][2/2]" in ended.out


BOXES = """
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS


@TRANSFORMS.register_module(force=True)
class Mine(BaseTransform):
    def transform(self, results):
        {line}
        return results
"""


def test_steps_of_ones_own_for_boxes(tools: Tools, shapes: Shapes) -> None:
    """Labels counted from 1, boxes that are no numbers, an image that is resized alone and scaled to 1."""

    def run(line: str) -> Ended:
        name = f"boxes_{len(line)}"
        (shapes.root / f"{name}.py").write_text(BOXES.format(line=line))
        shapes.config()
        with (shapes.root / "config.py").open("a") as file:
            file.write(f"custom_imports = dict(imports=['{name}'])\n")
            file.write("train_dataloader['dataset']['pipeline'].insert(3, dict(type='Mine'))\n")
        path = {"PYTHONPATH": str(shapes.root)}
        return tools.run("train", "config.py", "--work-dir", "run", cwd=shapes.root, env=path)

    refused(
        run("results['gt_bboxes_labels'] = results['gt_bboxes_labels'] + 3"),
        "has labels from ",
        ", and the network predicts 3 classes, from 0 on: count from 0",
    )
    failed(run("results['gt_bboxes'].tensor[:] = float('nan')"), "has boxes that are infinite or NaN")
    ended = run("results['img'] = results['img'][:32] / 255")
    line = warning(ended, " has 64x32 pixels after the pipeline and is noted as 64x64: does a step resize or crop")
    assert "train_dataloader: " in line
    assert "applied once?" in warning(ended, "train_dataloader: after the data_preprocessor the first images have")


def test_objects_that_are_not_learned(tools: Tools, shapes: Shapes) -> None:
    """Of other categories, marked as crowds or as difficult, or of images that nobody has labelled."""
    folder = shapes.voc.folder / "Annotations"
    for number, path in enumerate(sorted(folder.glob("train*"))):
        mark = "<difficult>1</difficult>" if number > 2 else "<difficult>0</difficult>"
        path.write_text(path.read_text().replace("</name>", f"</name>{mark}"))
    line = warning(shapes.run(tools), "<difficult>")
    assert line.endswith("train.txt: 6 of 9 objects are marked by <difficult>, and so neither learned nor scored")
    shapes.config(UPSTREAM_VOC)
    path.write_text(re.sub("<name>.*</name>", "<name>Disk</name>", path.read_text()))
    assert warning(shapes.run(tools), "objects of classes that are not in the class list are left out: Disk")
    shapes.config(COCO)
    rewrite(shapes, lambda content: content["categories"].append({"id": 9, "name": "Disc"}))
    rewrite(shapes, lambda content: content["annotations"][1].update(category_id=9))
    rewrite(shapes, lambda content: [box.update(iscrowd=1) for box in content["annotations"][4:6]])
    rewrite(shapes, lambda content: [content["annotations"].pop() for _ in range(2)])
    rewrite(shapes, lambda content: content["annotations"].pop(0))
    ended = shapes.run(tools)
    assert warning(ended, "train.json: objects of classes that are not in the class list are left out: Disc (1)")
    assert warning(ended, "train.json: 2 of 4 boxes are marked as a crowd (iscrowd), and so neither learned nor scored")


def test_an_error_in_a_step_that_mixes_images(tools: Tools, shapes: Shapes) -> None:
    mixing = """
inner = dict({data}, data_root="shapes/", ann_file="ImageSets/Main/train.txt", pipeline=pipelines["train"][:2],
             metainfo=dict(classes=("square", "disc", "bar")))
steps = [dict(type="mmdet.MixUp", img_scale=(64, 64)), dict(type="mmdet.LoadAnnotations", with_mask=True)]
train_dataloader = dict(num_workers=1, dataset=dict(
    _delete_=True, type="mmdet.MultiImageMixDataset", dataset=inner, pipeline=[*steps, *pipelines["train"][2:]]
))
"""
    with (shapes.root / "config.py").open("a") as file:
        file.write(mixing.replace("{data}", VOC).replace("train_dataloader = dict(num", "train_dataloader.update(num"))
    failure = "train_dataloader (MultiImageMixDataset): LoadAnnotations fails on "
    failed(shapes.run(tools), failure, "take with_mask=True out of this step")


class Folders:
    """The class folders of the small world, to be changed."""

    def __init__(self, world: World, folder: Path) -> None:
        shutil.copytree(world.folder / "data", folder / "data")
        self.data, self.config = folder / "data", folder / "plain.py"
        self.config.write_text(world.plain.read_text().replace(str(world.folder), str(folder)))

    def train(self, tools: Tools, *options: str) -> Ended:
        work_dir = ["--work-dir", self.data.parent / "run"]
        return tools.run("train", self.config, *work_dir, "--cfg-options", "train_cfg.max_epochs=1", *options)


@pytest.fixture
def folders(world: World, tmp_path: Path) -> Folders:
    return Folders(world, tmp_path)


def test_folders_that_are_no_classes_and_images_of_other_endings(tools: Tools, folders: Folders) -> None:
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        shutil.copytree(folders.data / "train" / "red", folders.data / "train" / name)
    for number, path in enumerate(sorted((folders.data / "train" / "red").iterdir())):
        Image.open(path).save(path.with_suffix((".WEBP", ".TIFF", ".Png")[number % 3]))
        path.unlink()
    narrow = folders.data / "train" / "blue" / "000.png"
    Image.open(narrow).resize((2, 40)).save(narrow)
    (folders.data / "train" / "blue" / "more.heic").write_bytes(b"")
    (folders.data / "train" / "blue" / "more.png").symlink_to("/nowhere/more.png")
    (folders.data / "train" / "blue" / "._000.png").write_bytes(b"of macOS")
    shutil.copytree(folders.data / "train" / "green", folders.data / "train" / "blue" / ".ipynb_checkpoints")
    ended = folders.train(tools, "val_dataloader.dataset.data_prefix=train")
    assert ended.status == 0, ended.err
    assert "Epoch(train) [1][4/5]" in ended.out  # 60 images in batches of 12
    line = warning(ended, "23 files in its folders are not read: ")
    assert {*line.split("read: ")[1].split(", ")} == {
        "1 of .heic",
        "21 of hidden images",
        "1 of links that lead nowhere",
    }
    assert "train_dataloader: 1 of 60 images looked at are 10 times as long as wide, or more: " in ended.out
    assert "val_dataloader: 60 of 60 images (" in warning(ended, " are in the training data too: figures on them")


def test_validation_folders_that_differ(tools: Tools, folders: Folders) -> None:
    shutil.rmtree(folders.data / "val" / "blue")
    refused(
        folders.train(tools),
        "val_dataloader: its 2 classes are not the 3 of the training data: it lacks 'blue', class 0 is 'green' here",
    )
    (folders.data / "val" / "blue").mkdir()
    assert folders.train(tools).status == 0
    shutil.rmtree(folders.data / "val" / "blue")
    refused(
        folders.train(tools, "train_dataloader.dataset.classes=[blue,green,red,white]"),
        "train_dataloader: the class list names 4 classes (blue, green, red, white), ",
        "train has 3 folders (blue, green, red): name these, in this order",
    )
    shutil.copytree(folders.data / "val" / "green", folders.data / "val" / "Blue")
    assert "it lacks 'blue', it has 'Blue' besides, class 0 is 'Blue' here and 'blue' there" in warning(
        folders.train(tools), "val_dataloader"
    )


def test_a_validation_folder_of_another_name(tools: Tools, folders: Folders) -> None:
    (folders.data / "val" / "red").rename(folders.data / "val" / "rose")
    refused(
        folders.train(tools),
        "val_dataloader: its 3 classes are not the 3 of the training data: it lacks 'red', it has 'rose' besides",
        "; give both the same list in the same order",
    )


def test_a_list_for_training_and_folders_for_validation(tools: Tools, folders: Folders) -> None:
    files = sorted((folders.data / "train").rglob("*.png"))
    numbers = {"green": 0, "blue": 1, "red": 2}
    lines = [f"{file.relative_to(folders.data / 'train')} {numbers[file.parent.name]}\n" for file in files]
    (folders.data / "train.txt").write_text("".join(lines))
    refused(
        folders.train(tools, "train_dataloader.dataset.ann_file=train.txt"),
        "val_dataloader: 2 folders have another label than in the training data ('blue' has 0 here and 1 there)",
    )


def test_joined_folders_of_other_classes(tools: Tools, folders: Folders) -> None:
    (folders.data / "val" / "red").rename(folders.data / "val" / "rose")
    with folders.config.open("a") as file:
        part = f'dict(type="CustomDataset", data_root=r"{folders.data}", data_prefix=name, pipeline=train_pipeline)'
        joined = f'dict(type="ConcatDataset", datasets=[{part} for name in ("train", "val")])'
        file.write(f'\ntrain_dataloader["dataset"] = {joined}\n')
    refused(
        folders.train(tools),
        "train_dataloader.dataset.datasets.1: its classes are not the first one's: it lacks 'red', it has 'rose'",
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_lists_of_labels(tools: Tools, folders: Folders, encoding: str) -> None:
    separator = {"utf-8-sig": "\t", "utf-16": "  ", "utf-8": ","}[encoding]
    for split in ("train", "val"):
        files = sorted((folders.data / split).rglob("*.png"))
        labels = [
            sorted(path.name for path in (folders.data / split).iterdir()).index(file.parent.name) for file in files
        ]
        quote = '"' * (separator == ",")
        lines = [
            f"{quote}{file.relative_to(folders.data / split)}{quote}{separator}{label} \r\n"
            for file, label in zip(files, labels, strict=True)
        ]
        (folders.data / f"{split}.txt").write_bytes("".join(lines).encode(encoding))
    names = folders.data / "names.txt"
    names.write_bytes("blue\r\ngreen \r\nred\r\n".encode(encoding))
    lists = [f"{split}_dataloader.dataset.ann_file={split}.txt" for split in ("train", "val")]
    names_of = [f"{split}_dataloader.dataset.metainfo.classes={names}" for split in ("train", "val", "test")]
    ended = folders.train(tools, *lists, *names_of)
    assert ended.status == 0, ended.err
    stored = torch.load(folders.data.parent / "run" / "epoch_1.pth", weights_only=False)
    assert stored["meta"]["dataset_meta"]["classes"] == ("blue", "green", "red")


def test_one_image_of_four_channels_late_in_an_epoch(tools: Tools, folders: Folders) -> None:
    load = "[dict(type='LoadImageFromFile', color_type='unchanged'), dict(type='PackInputs')]"
    with folders.config.open("a") as file:
        file.write(f"\ntrain_dataloader['dataset']['pipeline'] = {load}\n")
    path = folders.data / "train" / "red" / "008.png"
    Image.open(path).convert("RGBA").save(path)
    line = failed(folders.train(tools))
    assert line.startswith(f"error: train_dataloader: ClsDataPreprocessor fails on {path}: RuntimeError: ")
    Image.open(path).convert("RGB").resize((31, 27)).save(path)
    stacked = ["train_dataloader.collate_fn.type=default_collate", "train_dataloader.num_workers=1"]
    failure = " do not make a batch: RuntimeError: stack expects each tensor to be equal size"
    failed(folders.train(tools, *stacked), failure, "; let the pipeline resize all images")


STEP = """
from mmcv.transforms import TRANSFORMS, BaseTransform


@TRANSFORMS.register_module(force=True)
class Odd(BaseTransform):
    def transform(self, results):
        if "val" in results["img_path"] and results["img_path"].endswith("004.png"):
            return None
        return results if "041" not in results["img_path"] else {ending}
"""


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("results", "val_dataloader (CustomDataset): Odd leaves out "),
        ("__import__('os')._exit(9)", "error: a worker of a data loader exited unexpectedly"),
        ("{}['key']", ", line 10: return results if "),
        ("{**results, 'gt_label': 7}", "has labels from 7 to 7, and the network predicts 3 classes, from 0 on: count"),
        (
            "{**results, 'img': results['img'] * __import__('numpy').float32('nan')}",
            " has pixels that are infinite or NaN: let a step of the pipeline replace them",
        ),
    ],
)
def test_a_step_of_ones_own(tools: Tools, folders: Folders, ending: str, words: str) -> None:
    """It leaves out an image of an evaluation, or ends the worker, as a machine without memory does."""
    name = f"odd_{len(ending)}"
    (folders.config.parent / f"{name}.py").write_text(STEP.format(ending=ending))
    step = "pipeline.insert(1, dict(type='Odd'))"
    with folders.config.open("a") as file:
        file.write(f"\ncustom_imports = dict(imports=['{name}'])\ntrain_{step}\ntest_{step}\n")
    path = {"PYTHONPATH": str(folders.config.parent)}
    options = ["train_cfg.max_epochs=1", "train_dataloader.num_workers=1"]
    work_dir = ["--work-dir", folders.data.parent / "run", "--cfg-options"]
    ended = tools.run("train", folders.config, *work_dir, *options, env=path)
    assert ended.status == 2, ended.err
    assert words in ended.err.splitlines()[-1]


DATA = """
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS
from torchvision.datasets import FakeData


@DATASETS.register_module(force=True)
class Fake(FakeData):
    pass


@HOOKS.register_module(force=True)
class Last(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.last = outputs["loss_cls"]
"""


def test_a_data_set_and_a_hook_of_ones_own(tools: Tools, folders: Folders) -> None:
    """The samples are pairs of an image and a number, or the hook reads what is not there."""
    (folders.config.parent / "fake_data.py").write_text(DATA)
    text = f"{folders.config.read_text()}\ncustom_imports = dict(imports=['fake_data'])\n"
    command = ["train", folders.config, "--work-dir", folders.data.parent / "run"]
    path = {"PYTHONPATH": str(folders.config.parent)}
    folders.config.write_text(text + "train_dataloader['dataset'] = dict(type='Fake', size=12)\n")
    refused(tools.run(*command, env=path), "train_dataloader: its pipeline does not end in a step that packs samples")
    folders.config.write_text(text + "train_dataloader['dataset'] = dict(type='Fake', size=12, transform='flip')\n")
    refused(tools.run(*command, env=path), "train_dataloader (Fake): sample 0 fails: TypeError: 'str' object is not ca")
    folders.config.write_text(text + "custom_hooks = [dict(type='Last')]\n")
    failed(tools.run(*command, env=path), "error: KeyError: 'loss_cls' in ", "fake_data.py, line 15: self.last = outp")


def test_a_network_of_other_channels_than_its_images(tools: Tools, world: World, folders: Folders) -> None:
    four = "model.backbone.in_channels=4"
    refused(
        folders.train(tools, four), " and 8 more have 3 channels, the network takes 4: set in_channels of its backbone"
    )
    grey = ["model.backbone.in_channels=1", "train_dataloader.dataset.pipeline.0.color_type=grayscale"]
    refused(folders.train(tools, *grey), " and 8 more have 3 channels, the network takes 1: set in_chan")
    words = ["--distiller", "kd", *world.taught]
    options = [
        "--work-dir",
        folders.data.parent / "run",
        *words,
        "--cfg-options",
        "model.student.backbone.in_channels=4",
    ]
    refused(
        tools.run("train", folders.config, *options),
        "dry run: the first layer of a network takes 4 channels, the mean of its data_preprocessor has 3",
    )


def test_labels_that_a_distilled_student_has_not(tools: Tools, world: World, folders: Folders) -> None:
    files = sorted((folders.data / "train").rglob("*.png"))
    lines = [f"{file.relative_to(folders.data / 'train')} {number % 3 - 1}\n" for number, file in enumerate(files)]
    (folders.data / "train.txt").write_text("".join(lines))
    words = ["--distiller", "kd", *world.taught]
    options = ["--work-dir", folders.data.parent / "run", *words]
    options += ["--cfg-options", "train_dataloader.dataset.ann_file=train.txt"]
    refused(
        tools.run("train", folders.config, *options),
        "train_dataloader: the data set has labels from -1 to 1, the network predicts 3 classes, from 0 to 2",
        "or set model.student.head.num_classes",
    )


def test_folders_of_classes_in_the_wrong_depth(tools: Tools, folders: Folders) -> None:
    above = [f"train_dataloader.dataset.data_prefix={folders.data}", "model.head.num_classes=2"]
    refused(folders.train(tools, *above), "the folders of the classes are train, val, which are splits: name one of")
    for part in ("train", "val"):
        (folders.data / part).rename(folders.data / "images")
        (folders.data / part).mkdir()
        (folders.data / "images").rename(folders.data / part / "images")
    refused(
        folders.train(tools),
        "the data set has one class (images), the network predicts 3: data_root and data_prefix name the fold",
    )
    refused(folders.train(tools, "model.head.num_classes=1"), "one class (images), the network predicts 1: data_root")
    for path in list(folders.data.rglob("*.png")):
        path.rename(folders.data / path.relative_to(folders.data).parts[0] / f"{path.parent.name}{path.name}")
    refused(folders.train(tools), "/data/train are in no folder (")


def test_more_images_a_batch_than_there_are(tools: Tools, folders: Folders) -> None:
    refused(
        folders.train(tools, "train_dataloader.batch_size=99", "train_dataloader.drop_last=True"),
        "train_dataloader: 60 samples make no batch of 99: set a smaller batch_size, or drop_last=False",
    )


def test_labels_counted_from_one(tools: Tools, folders: Folders) -> None:
    for split in ("train", "val"):
        files = sorted((folders.data / split).rglob("*.png"))
        lines = [f"{file.relative_to(folders.data / split)} {1 + number % 3}\n" for number, file in enumerate(files)]
        (folders.data / f"{split}.txt").write_text("".join(lines))
    lists = [f"{split}_dataloader.dataset.ann_file={split}.txt" for split in ("train", "val")]
    refused(
        folders.train(tools, *lists),
        "labels from 1 to 3, the network predicts 3 classes, from 0 to 2: number the labels from 0",
    )
    (folders.data / "train.txt").write_text("".join(line.replace(" ", " 0,") for line in lines))
    refused(folders.train(tools, *lists), "are no image and the number of its class: ", "mmpretrain.MultiLabelDataset")


@pytest.mark.parametrize(
    ("train", "val", "named", "told", "words"),
    [
        (
            "102",
            "102",
            True,
            refused,
            "the images in 'blue' have the label 1, which the class list calls 'green': number the ",
        ),
        (
            "012",
            "102",
            True,
            refused,
            "val_dataloader: the images in 'blue' have the label 1, which the class list calls 'gre",
        ),
        (
            "013",
            "013",
            True,
            refused,
            "the data set has labels from 0 to 3, the class list has 3 names, from 0 to 2: number th",
        ),
        (
            "012",
            "021",
            False,
            refused,
            "val_dataloader: 2 folders have another label than in the training data ('green' has 2",
        ),
        (
            "123",
            "012",
            False,
            refused,
            "val_dataloader: 3 folders have another label than in the training data ('blue'",
        ),
        ("013", "013", False, warning, "train_dataloader: 1 of 4 classes have no object: 2"),
    ],
)
def test_lists_that_number_classes_otherwise(
    tools: Tools, folders: Folders, train: str, val: str, named: bool, told: Any, words: str
) -> None:
    options = ["model.head.num_classes=4"]
    for split, numbers in (("train", train), ("val", val)):
        lines = [f"{path.parent.name}/{path.name} " for path in sorted((folders.data / split).rglob("*.png"))]
        labels = dict(zip(("blue", "green", "red"), numbers, strict=True))
        (folders.data / f"{split}.txt").write_text("".join(f"{line}{labels[line.split('/')[0]]}\n" for line in lines))
        options += [f"{split}_dataloader.dataset.ann_file={split}.txt"]
        options += [f"{split}_dataloader.dataset.metainfo.classes=[blue,green,red]"] * named
    ended = folders.train(tools, *options)
    assert told(ended, words)


def test_a_validation_that_is_read_otherwise(tools: Tools, folders: Folders) -> None:
    load, crop, pack = "'LoadImageFromFile', color_type='grayscale'", "'RandomCrop', crop_size=20", "'PackInputs'"

    def train(*steps: str) -> Ended:
        with folders.config.open("a") as file:
            pipeline = ", ".join(f"dict(type={step})" for step in steps)
            file.write(f"\nval_dataloader['dataset']['pipeline'] = [{pipeline}]\n")
        return folders.train(tools)

    ended = train(load, crop, pack)
    warning(ended, "val_dataloader: the first images have [1] channels, those of the training [3]: give LoadImageFr")
    warning(ended, "val_dataloader: RandomCrop draws at random, so that results differ each time")
    for file in list((folders.data / "val").rglob("*.png"))[::2]:
        Image.open(file).resize((40, 30)).save(file)
    line = warning(train("'LoadImageFromFile'", pack), "val_dataloader: the first images are of several sizes after ")
    assert "40x30" in line
    ended = train(load, "'Normalize', mean=[0.0], std=[255.0]", pack)
    refused(
        ended, "val_dataloader: its pipeline normalises otherwise (mean=[0.0], ", "training data (not at all): write"
    )


def test_class_folders_without_images(tools: Tools, folders: Folders) -> None:
    for path in folders.data.rglob("*.png"):
        path.rename(path.with_suffix(".heic"))
    refused(folders.train(tools), "/data/train and its folders hold no image that is read (60 of .heic)")


def test_a_checkpoint_of_other_classes(tools: Tools, world: World, folders: Folders) -> None:
    numbers = {"green": 0, "blue": 1, "red": 2}
    lines = [
        f"{path.parent.name}/{path.name} {numbers[path.parent.name]}\n"
        for path in sorted(folders.data.rglob("val/*/*"))
    ]
    (folders.data / "val.txt").write_text("".join(lines))
    listed = ["--work-dir", folders.data.parent / "test", "--cfg-options", "test_dataloader.dataset.ann_file=val.txt"]
    listed += [f"test_dataloader.dataset.data_root={folders.data}"]
    words = "test_dataloader: the images in 'blue' have the label 1, which the class list calls 'green'"
    refused(tools.run("test", world.teacher, world.checkpoint, *listed), words)
    for part in ("train", "val"):
        (folders.data / part / "blue").rename(folders.data / part / "zebra")
    options = ["--work-dir", folders.data.parent / "test", "--cfg-options"]
    options += [f"test_dataloader.dataset.data_root={folders.data}"]
    ended = tools.run("test", world.teacher, world.checkpoint, *options)
    refused(
        ended,
        "test_dataloader: its 3 classes are not the 3 of the checkpoint's training data: it lacks 'blue'",
        "class 0 is 'green' here and 'blue' there",
    )
    stored = torch.load(world.checkpoint, weights_only=False)
    old = folders.data.parent / "old.pth"
    torch.save({"meta": {"CLASSES": ("red", "green", "blue")}, "state_dict": stored["state_dict"]}, old)
    refused(
        tools.run("test", world.teacher, old, *options),
        "the checkpoint's training data: it lacks 'blue'",
        "'green' here and 'red' there",
    )
    options = ["--work-dir", folders.data.parent / "run", "--cfg-options", "train_cfg.max_epochs=1"]
    options += [f"{part}_dataloader.dataset.data_root={folders.data}" for part in ("train", "val")]
    ended = tools.run("train", world.teacher, *options, f"load_from={world.checkpoint}")
    line = warning(ended, "load_from: the data have other classes than the checkpoint: it lacks 'blue'")
    assert line.endswith("the head starts with the weights of the checkpoint's classes")
    refused(
        tools.run("train", world.teacher, "--resume", world.checkpoint, *options),
        "train_dataloader: its 3 classes are not the 3 of the run that is resumed: it lacks 'blue'",
    )


def test_a_teacher_as_safetensors(tools: Tools, world: World, tmp_path: Path) -> None:
    header = json.dumps({"head.fc.bias": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode()
    file = tmp_path / "teacher.pth"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(12))
    words = [world.plain, "--work-dir", tmp_path / "run", "--distiller", "kd", "--teacher", world.teacher]
    line = refused(tools.run("train", *words, "--teacher-checkpoint", file))
    assert f"{file} is a safetensors file: install" in line or "missing" in line
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:50])
    refused(tools.run("train", *words, "--teacher-checkpoint", cut), "cut.safetensors is no checkpoint, or cut short")
    refused(
        tools.run("train", world.plain, "--work-dir", tmp_path / "run", "--cfg-options", f"load_from={file}"),
        "is a safetensors file, which the engine does not read",
    )
