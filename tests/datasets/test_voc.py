"""VOCDataset on small folders: reading, unusual annotations, errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
import torch
from mmdet.datasets import VOCDataset as UpstreamVOCDataset
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

import kd_mm  # noqa: F401 - registers everything
from kd_mm.datasets import VOCDataset

from ..helpers.voc_folder import CAT, PIPELINE, VOCFolder, read, read_error, truncate, xml


def boxes(dataset: VOCDataset, index: int = 0) -> list[list[float]]:
    return [instance["bbox"] for instance in dataset.get_data_info(index)["instances"]]


@pytest.mark.parametrize(
    "options",
    [
        {"test_mode": True},
        {"filter_cfg": {"filter_empty_gt": True, "min_size": 32, "bbox_min_size": 32}},
        {"metainfo": {"classes": ("dog", "cat")}},
    ],
)
def test_ordinary_data_equal_upstream(voc: VOCFolder, options: dict[str, Any]) -> None:
    voc.add("hard", CAT, extra="<difficult>1</difficult>")
    voc.split("train", ["a", "b", "c", "hard"])
    dataset, upstream = read(voc, **options), UpstreamVOCDataset(**voc.options(), **options)
    assert len(dataset) == len(upstream) == 4
    for index in range(4):
        assert dataset.get_data_info(index) == upstream.get_data_info(index)
    expected = dict(upstream.metainfo)
    if "metainfo" in options:
        del expected["palette"]
    assert dataset.metainfo == expected
    assert dataset.get_data_info(3)["instances"][0]["ignore_flag"] == 1


def test_registered_dataset_feeds_a_detector(voc: VOCFolder) -> None:
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build({"type": "kd_mm.VOCDataset", **voc.options(), "pipeline": PIPELINE})
        sample = dataset[1]
    assert sample["inputs"].shape == (3, 96, 128)
    instances = sample["data_samples"].gt_instances
    torch.testing.assert_close(
        instances.bboxes.tensor, torch.tensor([[20.0, 10.0, 58.0, 78.0], [0.0, 0.0, 126.0, 94.0]])
    )
    assert instances.labels.tolist() == [7, 11]


def test_other_names_of_folders_and_classes_and_image_formats(tmp_path: Path) -> None:
    voc = VOCFolder(tmp_path, year="herd")
    for name, suffix in (("one.2", ".png"), ("two", ".bmp"), ("three", ".JPG"), ("four", ".webp")):
        voc.image(name, suffix=suffix)
        voc.annotate(name, xml([("ze\u0301bra\u00a0a", (1, 1, 20, 20))]))  # in letters and blanks that look alike
    (tmp_path / "names.txt").write_text("one.2\n\n two.bmp \nthree.JPG\r\nfour\n")
    prefix = {"data_root": str(voc.folder), "ann_file": str(tmp_path / "names.txt"), "data_prefix": {}}
    dataset = read(voc, **prefix, metainfo={"classes": ("z\u00e9bra a",)}, pipeline=PIPELINE)
    assert [dataset.get_data_info(i)["img_id"] for i in range(4)] == ["one.2", "two", "three", "four"]
    assert dataset[0]["inputs"].shape == (3, 96, 128)
    assert dataset.metainfo["classes"] == ("z\u00e9bra a",)
    assert "palette" not in dataset.metainfo
    (voc.folder / "Annotations").rename(voc.folder / "labels")
    (voc.folder / "JPEGImages").rename(voc.folder / "images")
    moved = {"ann_subdir": "labels", "img_subdir": "images", "metainfo": {"classes": ["z\u00e9bra a"]}}
    assert len(read(voc, **prefix, **moved)) == 4


def test_fractions_of_pixels_depths_parts_and_namespaces(voc: VOCFolder) -> None:
    voc.annotate("a", xml([("cat", (1.5, "2,25", 30.75, "40.0"))]))
    assert boxes(read(voc)) == [[0.5, 1.25, 29.75, 39.0]]
    for depth in ("<depth/>", "<depth>Unspecified</depth>", ""):
        voc.annotate("a", xml([CAT], size=f"<width>64</width><height>48</height>{depth}"))
        assert boxes(read(voc)) == [[10, 5, 29, 39]]
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"
    voc.annotate("a", xml([("person", (1, 2, 30, 40))], extra=part))
    info = read(voc).get_data_info(0)
    assert [instance["bbox_label"] for instance in info["instances"]] == [14]
    for tags in ("<Object>{}</Object>", "<objects><object>{}</object></objects>"):
        voc.annotate("a", re.sub("<object>(.*)</object>", lambda found, tags=tags: tags.format(found[1]), xml([CAT])))
        assert boxes(read(voc)) == [[10, 5, 29, 39]]
    text = xml([CAT]).replace("<annotation>", '<annotation xmlns="http://example.org/voc">')
    voc.annotate("a", f'\n\n<?xml version="1.0"?>\n{text}')
    assert boxes(read(voc)) == [[10, 5, 29, 39]]


def test_boxes_without_area_are_dropped_for_training_and_stay_in_a_test(voc: VOCFolder, warnings: list[str]) -> None:
    voc.annotate("a", xml([("cat", (9, 9, 9, 9)), CAT, ("dog", (5, 5, 5, 30)), ("dog", (70, 5, 90, 30))]))
    assert boxes(read(voc)) == [[10, 5, 29, 39]]
    assert [line for line in warnings if "no area and are dropped for training: 3, in a" in line]
    kept = boxes(read(voc, test_mode=True))
    assert kept == [[8, 8, 8, 8], [10, 5, 29, 39], [4, 4, 4, 29], [64, 4, 64, 29]]
    assert [line for line in warnings if "no area and stay in the ground truth: 3, in a" in line]
    voc.annotate("a", xml([("cat", (0.1, 0.2, 0.6, 0.9)), CAT]).replace("xmin", "XMin"))
    assert boxes(read(voc)) == [[10, 5, 29, 39]]
    assert [line for line in warnings if "training (fractions of the image? <bndbox> holds pixels): 1, in a" in line]
    voc.annotate("a", xml([("cat", (9, 9, 9, 9))]))
    assert len(read(voc)) == 3
    assert len(read(voc, filter_cfg={"filter_empty_gt": True})) == 2


def test_boxes_are_clipped_to_the_image_and_swapped_corners_sorted(voc: VOCFolder, warnings: list[str]) -> None:
    voc.annotate("a", xml([("cat", (-20, -5, 30, 40)), ("dog", (11, 6, 900, 900)), ("dog", (0, 0, 30, 40))]))
    assert boxes(read(voc)) == [[0, 0, 29, 39], [10, 5, 64, 48], [0, 0, 29, 39]]
    assert [line for line in warnings if "reach out of the image and are clipped to it: 2, in a" in line]
    voc.annotate("a", xml([("cat", (30, 40, 11, 6))]))
    assert boxes(read(voc)) == [[10, 5, 29, 39]]
    assert [line for line in warnings if "corners swapped" in line and ": 1, in a" in line]


def test_missing_size_is_read_from_the_image(voc: VOCFolder) -> None:
    voc.image("a", width=80, height=40)
    for size in ("", "<depth/>", "<width>0</width><height>0</height>", "<width/><height>48</height>"):
        voc.annotate("a", xml([("cat", (11, 6, 78, 60))], size=size))
        info = read(voc).get_data_info(0)
        assert (info["width"], info["height"]) == (80, 40)
        assert info["instances"][0]["bbox"] == [10, 5, 77, 40]


def test_size_that_differs_from_the_image(voc: VOCFolder, warnings: list[str]) -> None:
    voc.image("a", width=128, height=24)
    line = read_error(voc)
    assert "1 of 3 images are of another size than their <size>: a (64x48 in the XML, 128x24 in the image)" in line
    assert all(f"'{policy}'" in line for policy in ("rescale", "skip", "keep"))
    assert len(read(voc, size_mismatch="skip")) == 2
    boxes_of = {policy: read(voc, size_mismatch=policy) for policy in ("rescale", "keep")}
    assert boxes(boxes_of["rescale"]) == [[20, 2.5, 58, 19.5]]
    assert boxes(boxes_of["keep"]) == [[10, 5, 29, 24]]
    info = boxes_of["keep"].get_data_info(0)
    assert (info["width"], info["height"]) == (128, 24)
    assert [line.rpartition("; ")[2] for line in warnings if "another size" in line] == [
        "they are left out",
        "their boxes are scaled",
        "their boxes are kept",
    ]
    line = read_error(voc, size_mismatch="no")
    assert "size_mismatch='no' is unknown; choose one of 'stop', 'rescale', 'skip', 'keep'" in line


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("color_type", ["color", "unchanged", "color_ignore_orientation"])
def test_size_is_that_of_the_decoded_image(voc: VOCFolder, suffix: str, color_type: str) -> None:
    exif = Image.Exif()
    exif[274] = 8
    (voc.folder / "JPEGImages" / "a.jpg").unlink()
    voc.image("a", width=60, height=40, suffix=suffix, exif=exif)
    voc.annotate("a", xml([CAT], size=""))
    dataset = read(voc, pipeline=[{"type": "LoadImageFromFile", "color_type": color_type}])
    info = dataset.get_data_info(0)
    assert (info["height"], info["width"]) == dataset[0]["img"].shape[:2]
    turned = (info["width"], info["height"]) == (40, 60)
    assert turned or color_type != "color" or suffix != ".jpg"
    voc.annotate("a", xml([CAT], size=f"<width>{40 + 20 * turned}</width><height>{60 - 20 * turned}</height>"))
    assert "in the XML, " in read_error(voc, pipeline=[{"type": "LoadImageFromFile", "color_type": color_type}])


def test_images_without_objects_stay_unless_filtered(voc: VOCFolder) -> None:
    voc.add("empty")
    voc.split("train", ["a", "empty"])
    assert len(read(voc)) == 2
    assert len(read(voc, filter_cfg={"filter_empty_gt": True})) == 1
    test = read(voc, test_mode=True, filter_cfg={"filter_empty_gt": True}, pipeline=PIPELINE)
    assert len(test) == 2
    assert test[1]["data_samples"].gt_instances.bboxes.tensor.shape == (0, 4)


def test_objects_of_other_classes_are_counted(voc: VOCFolder, warnings: list[str]) -> None:
    dataset = read(voc, metainfo={"classes": ("dog",)})
    assert [len(boxes(dataset, index)) for index in range(3)] == [0, 1, 1]
    assert [line for line in warnings if "not in the class list are left out: cat (2)" in line]
    with pytest.raises(ValueError, match="the class list names 'Cat', the annotations of .* 'cat': write it alike"):
        read(voc, metainfo={"classes": ("dog", "Cat")})


def object_without(tag: str) -> str:
    return xml([CAT]).replace(f"<{tag}>", f"<was_{tag}>").replace(f"</{tag}>", f"</was_{tag}>")


DAMAGES = {
    "no image": (lambda voc: (voc.folder / "JPEGImages" / "b.jpg").unlink(), "there is no", "b.jpg"),
    "empty image": (lambda voc: (voc.folder / "JPEGImages" / "b.jpg").write_bytes(b""), "b.jpg: it is empty"),
    "no picture": (lambda voc: (voc.folder / "JPEGImages" / "b.jpg").write_text("<html>" * 9), "b.jpg: it is no image"),
    "truncated": (lambda voc: truncate(voc.folder / "JPEGImages" / "b.jpg"), "b.jpg: image file is truncated"),
    "no annotation": (lambda voc: (voc.folder / "Annotations" / "b.xml").unlink(), "there is no", "b.xml"),
    "empty annotation": (lambda voc: voc.annotate("b", ""), "b.xml: it is empty"),
    "cut annotation": (lambda voc: voc.annotate("b", xml([CAT])[:-20]), "b.xml: it is not XML", "line 1"),
    "binary": (
        lambda voc: (voc.folder / "Annotations" / "b.xml").write_bytes(b"\x00\xff"),
        "b.xml: its text is not UT",
    ),
    "encoding": (
        lambda voc: voc.annotate("b", "<?xml version='1.0' encoding='no-8'?><annotation/>"),
        "b.xml: its encoding is not known (unknown encoding: no-8): save it as UTF-8",
    ),
    "html": (lambda voc: voc.annotate("b", "<html></html>"), "b.xml: its outermost element is <html>"),
    "no name": (lambda voc: voc.annotate("b", object_without("name")), "b.xml: object 1 has no <name>"),
    "no corner": (lambda voc: voc.annotate("b", object_without("ymax")), "b.xml: object 1 (cat) has no number as <yma"),
    "polygon": (
        lambda voc: voc.annotate("b", xml([CAT]).replace("bndbox>", "polygon>")),
        "object 1 (cat) has no <bndbox>, but <polygon>",
    ),
    "other corners": (
        lambda voc: voc.annotate("b", xml([CAT]).replace("xmin>", "x1>")),
        "object 1 (cat) has no number as <xmin> (there are <x1>, <ymin>, <xmax>, <ymax>)",
    ),
    "words": (lambda voc: voc.annotate("b", xml([("cat", (1, "x", 3, 4))])), "object 1 (cat) has no number as <ymin>"),
    "not finite": (lambda voc: voc.annotate("b", xml([("cat", (1, 2, "nan", 4))])), "has no number as <xmax>"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_files_stop_or_are_skipped(voc: VOCFolder, warnings: list[str], kind: str) -> None:
    damage, *words = DAMAGES[kind]
    damage(voc)
    for test_mode in (False, True):
        line = read_error(voc, test_mode=test_mode)
        assert line.startswith(f"1 of 3 images of {voc.folder}/ImageSets/Main/train.txt cannot be used: b (")
        assert "on_error='skip'" in line
        assert all(word in line for word in words)
        dataset = read(voc, test_mode=test_mode, on_error="skip", pipeline=PIPELINE)
        assert [dataset[index]["data_samples"].img_id for index in range(len(dataset))] == ["a", "c"]
    skipped = [entry for entry in warnings if entry.startswith("skipped")]
    assert len(skipped) == 2
    assert all(word in entry for entry in skipped for word in words)


def test_many_damaged_files_are_one_line(voc: VOCFolder, warnings: list[str]) -> None:
    names = [f"x{number}" for number in range(9)]
    voc.split("train", ["a", *names])
    assert "9 of 10 images" in read_error(voc)
    assert len(read(voc, on_error="skip")) == 1
    assert len(warnings) == 1
    assert "x3" in warnings[0]
    assert "and 5 more" in warnings[0]
    voc.split("train", names)
    assert read_error(voc, on_error="skip").startswith("none of the 9 images")


def test_several_images_of_one_name(voc: VOCFolder, warnings: list[str]) -> None:
    (voc.folder / "JPEGImages" / "a.png").write_bytes((voc.folder / "JPEGImages" / "a.jpg").read_bytes())
    assert read(voc).get_data_info(0)["img_path"].endswith("a.jpg")
    assert warnings[0].endswith("names with several image files: 1, read are a.jpg")


def test_annotations_of_another_name(voc: VOCFolder) -> None:
    """They are no missing ones, also where such are background."""
    folder, name = voc.folder / "Annotations", "b\N{LATIN SMALL LETTER U WITH DIAERESIS}hne"
    voc.image(name)
    voc.annotate(normalize("NFD", name), xml([CAT]))
    voc.split("train", [name])
    assert len(read(voc, negatives=True).get_data_info(0)["instances"]) == 1
    voc.split("train", ["a", "b", "c"])
    for other in ("B.xml", "b.txt", "b.jpg.xml", "flat/b.xml"):
        (folder / other).parent.mkdir(exist_ok=True)
        (folder / "b.xml").rename(folder / other)
        for negatives in (False, True):
            line = f"there is no {folder}/b.xml, but {folder}/{other}, which is not read: write it as b.xml"
            assert line in read_error(voc, negatives=negatives)
        (folder / other).rename(folder / "b.xml")


def test_image_listed_twice(voc: VOCFolder, warnings: list[str]) -> None:
    voc.split("train", ["a", "b", "a"])
    assert "a (it is listed 2 times)" in read_error(voc)
    assert len(read(voc, on_error="skip")) == 2
    assert "a (it is listed 2 times)" in warnings[0]


LISTS = {
    "byte order mark, CRLF": "\ufeffa\r\nb\r\nc\r\n".encode(),
    "UTF-16": "a\nb\nc\n".encode("utf-16"),
    "UTF-16 without a mark": "a\nb\nc\n".encode("utf-16-be"),
    "marks of one class": b"a  1\nb -1\nc  0\n",
    "endings in any case, blanks": b" a.JPG \nb.jpg\t\n\n  c.jpeg\n",
    "quotes and commas": b"'a',3\n\"b\",4\nc;red\n",
    "image and annotation": b"JPEGImages/a.jpg Annotations/a.xml\nJPEGImages/b.jpg b.xml\nJPEGImages/c.jpg x\n",
    "one line": b"a.jpg, b.jpg, c.jpg\n",
    "paths of another machine": b"# from bob\nC:\\data\\a.jpg\n/home/bob/b.jpg\n./VOC2007/JPEGImages/c.jpg\n",
}


def test_lists_as_people_write_them(voc: VOCFolder, warnings: list[str]) -> None:
    for kind in LISTS:
        warnings.clear()
        voc.split("train", []).write_bytes(LISTS[kind])
        dataset = read(voc)
        assert [dataset.get_data_info(index)["img_id"] for index in range(3)] == ["a", "b", "c"]
        columns = [line.partition("train.txt: ")[2] for line in warnings if "more than the image's name" in line]
        expected = {
            "marks of one class": "-1, 0 and 1 of a list of one class: all images are kept, those of -1 (1) too",
            "quotes and commas": "not read (3, 4, red)",
            "image and annotation": "not read (Annotations/a.xml, b.xml, x)",
        }
        assert columns == [f"3 of 3 lines have more than the image's name: {expected[kind]}" for _ in columns]
        assert bool(columns) == (kind in expected)


def test_names_with_blanks_dots_and_numbers_at_their_end(voc: VOCFolder) -> None:
    names = ["scan 1", "scan 0", "2 -1", "site a/scan.v1", "c.jpg", "#4"]
    for name in names:
        for part in ("JPEGImages", "Annotations"):
            (voc.folder / part / name).parent.mkdir(exist_ok=True)
        voc.image(name, suffix=".png")
        voc.annotate(name, xml([CAT]))
    voc.split("train", names)
    dataset = read(voc)
    assert [dataset.get_data_info(index)["img_id"] for index in range(len(names))] == names


def test_endings_in_any_case_and_such_as_are_not_read(voc: VOCFolder) -> None:
    for name, suffix in (("d", ".BMP"), ("e", ".Jpg"), ("f", ".tif"), ("g", ".TIFF")):
        voc.image(name, suffix=suffix)
        voc.annotate(name, xml([CAT]))
    voc.split("train", ["d", "e", "f", "g"])
    dataset = read(voc, pipeline=PIPELINE, test_mode=True)
    assert [dataset[index]["inputs"].shape for index in range(4)] == [(3, 96, 128)] * 4
    voc.image("h", suffix=".gif")
    (voc.folder / "JPEGImages" / "i").mkdir()
    voc.split("train", ["a", "h", "i"])
    line = read_error(voc)
    assert "JPEGImages/h.gif is not read: convert it to one of .jpg, " in line
    assert "JPEGImages/i is a folder" in line


def test_declared_encodings_of_an_annotation(voc: VOCFolder) -> None:
    for encoding in ("gb2312", "gbk", "iso-8859-1", "shift_jis", "utf-16", "utf-8"):
        name = "é" if encoding == "iso-8859-1" else "中"
        text = f'<?xml version="1.0" encoding="{encoding}"?>\n{xml([(name, CAT[1])])}'
        (voc.folder / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
        dataset = read(voc, metainfo={"classes": ("cat", f" {name}\n")})
        assert dataset.get_data_info(0)["instances"][0]["bbox_label"] == 1
        assert dataset.metainfo["classes"] == ("cat", name)
        voc.annotate("a", text.replace(encoding, "utf-16"))  # as some libraries declare UTF-8
        assert len(read(voc, metainfo={"classes": (name,)})) == 3
        (voc.folder / "Annotations" / "a.xml").write_bytes(text.partition("\n")[2].encode("gbk") + b"\xff")
        assert "its text is not UTF-8: save it so, or declare its encoding in the first line" in read_error(voc)


def test_difficult_of_any_spelling(voc: VOCFolder, warnings: list[str]) -> None:
    words = {"1": 1, "TRUE": 1, " yes ": 1, "0.0": 0, "False": 0, "": 0, "Unspecified": 0, "hard?": 0}
    objects = "".join(
        re.search("<object>.*</object>", xml([CAT], extra=f"<difficult>{word}</difficult>"))[0] for word in words
    )
    voc.annotate("a", f"<annotation>{objects}</annotation>")
    flags = [instance["ignore_flag"] for instance in read(voc).get_data_info(0)["instances"]]
    assert flags == list(words.values())
    assert [line.partition(": ")[2] for line in warnings] == [
        "<difficult> that is neither yes nor no is read as no: unspecified (1), hard? (1)"
    ]


def test_images_without_an_annotation_are_background_where_that_is_asked_for(
    voc: VOCFolder, warnings: list[str]
) -> None:
    (voc.folder / "Annotations" / "b.xml").unlink()
    assert "negatives=True keeps images without one as background" in read_error(voc)
    voc.annotate("c", "\n")
    dataset = read(voc, negatives=True, pipeline=PIPELINE)
    assert [len(boxes(dataset, index)) for index in range(3)] == [1, 0, 0]
    assert dataset[1]["inputs"].shape == (3, 96, 128)
    assert not warnings
    assert len(read(voc, negatives=True, filter_cfg={"filter_empty_gt": True})) == 1
    assert "filter_cfg={'filter_empty_gt': True} leaves 2 images out, which negatives=True would keep" in warnings[0]


def test_fractions_as_coordinates(voc: VOCFolder) -> None:
    for test_mode in (False, True):
        for name in ("a", "b", "c"):
            voc.annotate(name, xml([("cat", (0.1, 0.2, 0.6, 0.9))]))
        line = read_error(voc, test_mode=test_mode)
        assert "none of the 3 boxes of " in line
        assert "(their largest number is 0.9: fractions of the image?): <bndbox> holds pixels, counted from 1" in line


def test_missing_folders_and_lists(voc: VOCFolder, tmp_path: Path) -> None:
    line = read_error(voc, data_prefix={"sub_data_root": "VOC2012/"}, ann_file="VOC2012/ImageSets/Main/train.txt")
    assert f"looked in {voc.root}/VOC2012 for Annotations/, JPEGImages/, but no such folder" in line
    assert "host.robots.ox.ac.uk/pascal/VOC/ (or make your own in this layout" in line
    assert "it lacks JPEGImages/" in read_error(voc, img_subdir="JPEGImages", data_prefix={"sub_data_root": empty(voc)})
    line = read_error(voc, ann_file="VOC2007/ImageSets/Main/trian.txt")
    assert f"looked for {voc.folder}/ImageSets/Main/trian.txt, did you mean train.txt? (there are: train.txt)" in line
    assert "there is no *.txt in" in read_error(voc, ann_file="ImageSets/train.txt")
    assert "looked in" in read_error(voc, data_root=str(tmp_path / "elsewhere"))


def empty(voc: VOCFolder) -> str:
    (voc.root / "half" / "Annotations").mkdir(parents=True)
    return "half"


def test_empty_and_wrong_lists(voc: VOCFolder) -> None:
    voc.split("train", ["", " "])
    assert "train.txt is empty" in read_error(voc)
    voc.split("train", ["a", "b"])
    assert "none of its 2 images is left by filter_cfg={'min_size': 100}" in read_error(
        voc, filter_cfg={"min_size": 100}
    )
    line = read_error(voc, metainfo={"classes": ("Cat", "Dog")})
    assert "the annotations have cat, dog; the class list is Cat, Dog" in line
    assert "num_classes" in line
    assert "one class is written ('cat',)" in read_error(voc, metainfo={"classes": "cat"})
    assert "names twice: cat" in read_error(voc, metainfo={"classes": ("cat", "dog", "cat")})
    assert "is empty" in read_error(voc, metainfo={"classes": ()})
    assert "on_error='ignore' is unknown; choose one of 'stop', 'skip'" in read_error(voc, on_error="ignore")
