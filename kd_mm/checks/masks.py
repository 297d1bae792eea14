"""Masks of objects: those of the annotations that cannot be loaded, and steps that mix images without them."""

from collections.abc import Mapping
from typing import Any

from mmengine.dataset import BaseDataset

from kd_mm.utils.samples import base_datasets, mixing_datasets
from kd_mm.utils.suggest import warn

#: Images whose objects are looked at, evenly spread in a data set.
_LOOKED_AT = 200_000
#: Masks at which upstream fails, or which it reads as others.
_NO_MASK = "without a 'segmentation'"
_FLAT = "with numbers where a list of polygons is: write [[x1, y1, x2, y2, ...]]"
_OTHER_SIZE = "with run lengths whose 'size' is not [height, width] of the image"


def check_masks(key: str, dataset: BaseDataset) -> None:
    """Warn of masks that upstream leaves out.

    Raises:
        ValueError: There are some that the pipeline cannot load, or none is left.
    """
    steps = [vars(step) for step in dataset.pipeline.transforms if type(step).__name__ == "LoadAnnotations"]
    step = next((step for step in steps if step.get("with_mask")), None)
    if step is None:
        return
    count, found = 0, dict[str, list[str]]()
    for info in map(dataset.get_data_info, range(0, len(dataset), -(-len(dataset) // _LOOKED_AT) or 1)):
        for item in info["instances"]:
            count += not item["ignore_flag"]
            if not item["ignore_flag"] and (fault := _mask_fault(item, info, step["poly2mask"])):
                found.setdefault(fault, []).append(info["img_path"])
    if len(found.get(_NO_MASK, ())) == count:
        return  # the step names what it needs
    listed = ", ".join(f"{len(paths)} {fault} ({paths[0]})" for fault, paths in found.items())
    line = f"{key}: of {count} objects looked at there are {listed}"
    if sum(map(len, found.values())) == count or set(found) & {_NO_MASK, _FLAT, _OTHER_SIZE}:
        raise ValueError(f"{line}: correct them, or take with_mask=True out of LoadAnnotations")
    if found:
        warn(f"{line}: they are left out, or their masks are empty")


def _mask_fault(item: Mapping[str, Any], image: Mapping[str, Any], decoded: bool) -> str:
    """Return what is wrong with the mask of an object in an image, empty if nothing."""
    mask = item.get("mask")
    if not mask:
        return _NO_MASK
    if isinstance(mask, Mapping):
        fits = list(mask.get("size", ())) == [image.get("height"), image.get("width")]
        return ("" if fits else _OTHER_SIZE) if decoded else "with run lengths, which poly2mask=False leaves out"
    if not all(isinstance(polygon, list) for polygon in mask):
        return _FLAT
    points = [number for polygon in mask if len(polygon) % 2 == 0 and len(polygon) >= 6 for number in polygon]
    if not points:
        return "without a polygon of three points or more"
    left, top, right, bottom = item["bbox"]
    across, down = points[::2], points[1::2]
    outside = min(across) > right or max(across) < left or min(down) > bottom or max(down) < top
    return "with polygons outside of their box (are they in pixels?)" if outside else ""


def check_mixed_masks(key: str, dataset: Any) -> None:
    """Stop at steps that mix several images and not their masks, or that need masks which are not loaded.

    Raises:
        ValueError: Naming the step.
    """
    for mixing in mixing_datasets(dataset):
        steps = [step for part in base_datasets(mixing) for step in part.pipeline.transforms]
        masked = [step for step in steps if type(step).__name__ == "LoadAnnotations" and step.with_mask]
        for name, step in [(type(step).__name__, step) for step in mixing.pipeline]:
            if name in ("Mosaic", "MixUp") and masked:
                remedy = f"take Cached{name}, or with_mask=True out of LoadAnnotations"
                raise ValueError(f"{key}: {name} mixes boxes and no masks: {remedy}")
            if name == "CopyPaste" and not (step.paste_by_box or any(load.poly2mask for load in masked)):
                remedy = "set with_mask=True and poly2mask=True of LoadAnnotations"
                raise ValueError(f"{key}: CopyPaste needs masks of pixels: {remedy}")
