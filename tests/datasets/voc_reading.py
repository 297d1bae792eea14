"""Reading a small folder in the layout of Pascal VOC, or being refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.registry import DefaultScope

from kd_mm.datasets import VOCDataset

from .voc_folder import VOCFolder, xml

__all__ = ["CAT", "DOG", "PIPELINE", "VOCFolder", "read", "refusal", "truncate", "xml"]

CAT, DOG = ("cat", (11, 6, 30, 40)), ("dog", (1, 1, 64, 48))
PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "LoadAnnotations", "with_bbox": True},
    {"type": "Resize", "scale": (128, 96), "keep_ratio": True},
    {"type": "PackDetInputs"},
]


def read(voc: VOCFolder, split: str = "train", **options: Any) -> VOCDataset:
    with DefaultScope.overwrite_default_scope("mmdet"):
        return VOCDataset(**{**voc.options(split), **options})


def refusal(voc: VOCFolder, **options: Any) -> str:
    """The one line with which the data set refuses to be built."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read(voc, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
