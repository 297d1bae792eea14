"""Patches for faults of upstream that stop parts of its model zoo, applied where the installed version has them.

* ``mmdet.SSDHead`` has no ``loss_cls``, because it skips ``AnchorHead.__init__``, but the prediction that it inherits
  reads ``getattr(self.loss_cls, "custom_cls_channels", False)`` (mmdet 3.5.1): SSD trains and cannot predict. Its head
  gets ``loss_cls = None``.
* ``mmdet.TridentConv`` holds unset memory where no pretrained weights are loaded: its ``init_cfg`` names a child that
  it does not have and is never reached (mmdet 3.5.1). It starts as that ``init_cfg`` means it to: Kaiming, uniform,
  fan in.
* ``mmdet.PointAssigner`` numbers its points on the CPU and picks among the numbers by a mask where the points are
  (mmdet 3.5.1): RepPoints does not train on a GPU. It numbers them where they are.
* ``mmdet.CocoMetric`` hands a list of ``iou_thrs`` to pycocotools, which compares it with a number and so finds none,
  and fails with numpy 2.1 (mmdet 3.5.1). It is an array.
* ``mmpretrain.models`` imports its multimodal models wherever transformers 4.28 or newer is installed, and fails with
  transformers 5, which lacks what they use (mmpretrain 1.3.6). There they are placeholders, as without it.
* ``mmengine.Config`` marks each component of a base ``package::path`` with its ``_scope_``, and ``mmengine.Runner``
  passes the ``_scope_`` of a ``collate_fn`` on to the function, which has no such argument (mmengine 0.10.12). It is
  left out.
* ``mmpretrain.CustomDataset`` counts hidden folders (``.ipynb_checkpoints``) and those of archives and file servers as
  classes, and moves all labels behind them (mmpretrain 1.3.6). They are none. Class folders without any image end in
  one line that says what they hold, not in a ``RuntimeError``. One line of the log counts files in them that are not
  read. Its lists may have quotes around the names, and a tab or a comma before the label.
* ``mmengine.Registry`` looks up a part of a config ``kd_mm::path`` in kd_mm's registry of its kind, and warns where
  there is none, as for mmdet's task modules (mmengine 0.10.12). An empty one is added.
* ``mmengine.list_from_file`` reads UTF-8 alone and takes a byte order mark for part of the first name (mmengine
  0.10.12). It reads UTF-16 too, and leaves out the mark, empty lines and blanks at the ends of lines.
"""

from __future__ import annotations

import copy
import functools
import importlib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.fileio import get
from mmengine.logging import print_log

from kd_mm.ops.decoding import decode

#: A line of an image, quoted or not, and one label.
_LABELLED = re.compile(r"^(?!.*[\s,;]\d+[,;]\d+$)([\"']?)(.+?)\1[\s,;]+(\d+)$")


def patch_task_utils(module: ModuleType) -> None:
    """Let configs of kd_mm find the task modules of a module ``registry`` without a warning."""
    from mmengine.registry import Registry

    Registry("task util", parent=module.TASK_UTILS, scope="kd_mm", locations=["kd_mm.registry"])


def patch_ssd_head(module: ModuleType) -> None:
    """Let the ``SSDHead`` of a module have a ``loss_cls`` where its own constructor leaves it without one."""
    head: Any = module.SSDHead
    original = head.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if not hasattr(self, "loss_cls"):
            self.loss_cls = None

    head.__init__ = init


def patch_trident_conv(module: ModuleType) -> None:
    """Let the ``TridentConv`` of a module start from weights."""
    from torch import nn  # not for the commands' help, which imports mmengine's readers of files

    conv: Any = module.TridentConv
    original = conv.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        nn.init.kaiming_uniform_(self.weight, mode="fan_in", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    conv.__init__ = init


def patch_point_assigner(module: ModuleType) -> None:
    """Let the ``PointAssigner`` of a module make its tensors where the points are."""
    assigner: Any = module.PointAssigner
    original = assigner.assign

    @functools.wraps(original)
    def assign(self: Any, pred_instances: Any, *args: Any, **kwargs: Any) -> Any:
        with pred_instances.priors.device:
            return original(self, pred_instances, *args, **kwargs)

    assigner.assign = assign


def patch_coco_metric(module: ModuleType) -> None:
    """Let the ``CocoMetric`` of a module compute at the thresholds that a config names."""
    import numpy as np  # not for the commands' help, which imports mmengine's readers of files

    metric: Any = module.CocoMetric
    original = metric.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.iou_thrs = np.atleast_1d(self.iou_thrs)

    metric.__init__ = init


def patch_multimodal(module: ModuleType) -> None:
    """Let mmpretrain count its multimodal packages as missing where transformers lacks what it imports of it."""
    if not module.WITH_MULTIMODAL:
        return
    try:
        usable = hasattr(importlib.import_module("transformers.pytorch_utils"), "find_pruneable_heads_and_indices")
    except Exception:  # one that is broken in itself is of no more use
        usable = False
    vars(module)["WITH_MULTIMODAL"] = usable


def patch_collate(module: ModuleType) -> None:
    """Let the ``Runner`` of a module take a ``collate_fn`` that a config inherits from a package."""
    runner: Any = module.Runner
    original = runner.build_dataloader

    @functools.wraps(original)
    def build(dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        collate = dataloader.get("collate_fn") if isinstance(dataloader, Mapping) else None
        if isinstance(collate, Mapping) and "_scope_" in collate:
            dataloader = copy.copy(dataloader)
            dataloader["collate_fn"] = {key: value for key, value in collate.items() if key != "_scope_"}
        return original(dataloader, *args, **kwargs)

    runner.build_dataloader = staticmethod(build)


def patch_class_folders(module: ModuleType) -> None:
    """Let the functions of a module that look for class folders leave out what is none, and name what they lack."""
    find, collect = module.find_folders, module.get_samples

    @functools.wraps(find)
    def find_folders(root: str, *args: Any, **kwargs: Any) -> tuple[list[str], dict[str, int]]:
        folders = [name for name in find(root, *args, **kwargs)[0] if not _is_hidden(name)]
        return folders, {name: label for label, name in enumerate(folders)}

    @functools.wraps(collect)
    def get_samples(root: str, *args: Any, **kwargs: Any) -> tuple[list[Any], set[str] | None]:
        samples, empty = collect(root, *args, **kwargs)
        samples = [each for each in samples if not any(map(_is_hidden, Path(each[0]).parts[:-1]))]
        unread = _unread(root, args[0] or [""], kwargs["is_valid_file"], len(samples))
        found = ", ".join(f"{count} of {ending}" for ending, count in unread.most_common())
        if not samples:
            if loose := [file.name for file in Path(root).iterdir() if kwargs["is_valid_file"](file.name)]:
                raise FileNotFoundError(
                    f"the images of {root} are in no folder ({loose[0]} and so on): make one for each class, or give a "
                    "list of images and labels as ann_file"
                )
            raise FileNotFoundError(
                f"{root} and its folders hold no image that is read ({found or 'no file'}): convert them to PNG or JPEG"
                if found
                else f"{root} and its folders hold no file"
            )
        if found:
            text = f"{root}: {unread.total()} files in its folders are not read: {found}"
            print_log(text, "current", logging.WARNING)
        return samples, empty

    read = module.list_from_file

    def list_from_file(*args: Any, **kwargs: Any) -> list[str]:
        return [_LABELLED.sub(r"\2 \3", line) for line in read(*args, **kwargs)]

    vars(module).update(find_folders=find_folders, get_samples=get_samples, list_from_file=list_from_file)


def _is_hidden(name: str) -> bool:
    """Return whether a folder is one of a program: notebooks, macOS, Synology."""
    return name.startswith((".", "__MACOSX", "@eaDir"))


def _unread(root: str, folders: Iterable[str], is_read: Callable[[str], bool], count: int) -> Counter[str]:
    """Count the files in folders below a root that are not among the ``count`` ones that are read, by ending."""
    found: Counter[str] = Counter()
    images = 0
    for folder in folders:
        for path, _, files in os.walk(os.path.join(root, folder)):
            for name in files:
                # macOS writes ._x.png beside x.png on other disks
                hidden = name.startswith(".") or any(map(_is_hidden, Path(path).relative_to(root).parts))
                if is_read(name) and hidden:
                    found["hidden images"] += 1
                elif is_read(name):
                    images += 1
                elif not hidden:
                    found[os.path.splitext(name)[1] or "no ending"] += 1
    if images > count:
        found["links that lead nowhere"] = images - count
    return found


def patch_lists(module: ModuleType) -> None:
    """Let the ``list_from_file`` of a module read what editors write."""

    def get_text(path: str | Path, encoding: str = "utf-8", **options: Any) -> str:
        content = get(path, **options)
        text = decode(content, path) if encoding == "utf-8" else content.decode(encoding)
        return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())

    vars(module)["get_text"] = get_text
