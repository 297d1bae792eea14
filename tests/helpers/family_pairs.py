"""A family of upstream distilled with itself as teacher: plain steps, then steps with each recipe on the same pair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmdet
import mmpretrain
import torch
from mmdet.utils import register_all_modules
from mmengine.registry import init_default_scope
from torch import nn

from kd_mm.apis.recipes import read_recipes
from kd_mm.distillers import Distiller
from kd_mm.utils.checkpoint import student_state_dict
from kd_mm.utils.suggest import StepError, describe_error

from . import classifier_families, detection_samples, detector_families

RECIPES = ("mtkd_ssr", "kd", "pkd")
#: Detectors that most people train, first.
POPULAR = (
    *("faster_rcnn", "retinanet", "mask_rcnn", "cascade_rcnn", "fcos", "atss", "gfl", "yolox", "rtmdet", "ssd", "yolo"),
    *("deformable_detr", "detr", "dino", "centernet", "tood", "vfnet", "paa", "sparse_rcnn", "yolof", "reppoints"),
    *("solo", "solov2", "condinst", "htc", "maskformer", "mask2former", "panoptic_fpn", "swin", "pvt", "convnext"),
)


@dataclass(frozen=True)
class Family:
    """One row of the sweep.

    Attributes:
        name: Upstream's folder.
        config: Config under upstream's folder.
        task: ``"classification"`` or ``"detection"``.
        models: Configs of its model made small, the smallest first.
        side: Height and width of the images; ``None``: as the samples are.
    """

    name: str
    config: str
    task: str
    models: list[Any]
    side: int | None

    def fingerprint(self) -> str:
        """A hash of the configs and the versions of upstream; a change of our code or recipes asks for ``--again``."""
        versions = torch.__version__, mmdet.__version__, mmpretrain.__version__
        text = json.dumps([versions, self.models, self.side], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def batch(self, model: Any) -> dict[str, Any]:
        """A batch as the data loader returns it."""
        return classifier_families.batch(model, self.side) if self.side else detection_samples.batch(model)


def classifiers(only: Collection[str] = ()) -> Iterator[Family]:
    """Rows of mmpretrain's classifiers; of some folders, or configs, alone."""
    for name, side, changes in classifier_families.cases():
        if only and not {name, name.partition("/")[0]} & set(only):
            continue
        model = classifier_families.prepare(classifier_families.load(name), changes)
        yield Family(name.partition("/")[0], name, "classification", [model], side)


def detectors(only: Collection[str] = ()) -> Iterator[Family]:
    """Rows of mmdet's families, the popular ones first; of some alone. A family that holds settings alone has none."""
    names = [name for name in detector_families.names() if not only or name in only]
    for name in sorted(names, key=lambda name: POPULAR.index(name) if name in POPULAR else len(POPULAR)):
        for path, config in detector_families.candidates(name):
            model = detector_families.prepare(config)
            small = detector_families.lighten(deepcopy(model))
            yield Family(name, str(path.with_suffix("")), "detection", [small, model], None)
            break


def run(family: Family, folder: Path) -> dict[str, Any]:
    """Train the plain network, then distil it with each recipe.

    Args:
        family: The row.
        folder: An empty one, for the teacher's checkpoint.

    Returns:
        ``plain``: how plain training ended, and ``recipes``: how each ended, by name. ``"yes"``, or ``"refused: ..."``
        with the line that a user reads, or ``"fails: ..."``.
    """
    torch.set_num_threads(1)
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet" if family.task == "detection" else "mmpretrain")
    plain = "fails"
    for model in family.models:
        try:
            data = family.batch(model)
            network = detector_families.build(model, data)
            file = folder / "teacher.pth"
            torch.save({"state_dict": network.state_dict()}, file)
            detector_families.train(network, data)
        except Exception as error:
            plain = f"fails: {_line(error)}"
            continue
        teacher = {"config": model, "checkpoint": str(file)}
        return {"plain": "yes", "recipes": {name: _distil(family, network, teacher, name, data) for name in RECIPES}}
    return {"plain": plain, "recipes": {}}


def _distil(family: Family, network: nn.Module, teacher: Mapping[str, Any], recipe: str, data: dict[str, Any]) -> str:
    size = data["inputs"][0].shape[-2:] if isinstance(data["inputs"], list) else None
    try:
        student = detector_families.build(teacher["config"], data)
        model = Distiller(student, dict(teacher), read_recipes(recipe, family.task)[0], input_size=size and tuple(size))
    except ValueError as error:
        return _refusal(error)
    except Exception as error:
        return f"fails: {_line(error)}"
    for each in model.teachers.values():
        each.exits_ready = True  # random, which trains as well
    model.check_next_step = True
    try:
        detector_families.train(model, data)
        weights = student_state_dict({"state_dict": model.state_dict()})
        own = network.load_state_dict(network.state_dict(), strict=False)
        ended = network.load_state_dict(weights, strict=False)
        if ended != own:  # upstream's Swin v2 drops the tables of its positions whatever it loads
            raise ValueError(f"the distilled weights do not fit the plain network: {ended}")
    except StepError as error:
        return _refusal(error)
    except Exception as error:
        return f"fails: {_line(error)}"
    return "yes"


def _refusal(error: Exception) -> str:
    line = describe_error(error)
    return f"fails: {_line(error)}" if "\n" in line else f"refused: {line}"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {describe_error(error).splitlines()[0]}"
