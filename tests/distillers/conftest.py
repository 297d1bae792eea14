"""Small networks and batches for the Distiller's contracts."""

import copy
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample
from torch import Tensor, nn

import kd_mm
from kd_mm.apis.recipes import config_root
from kd_mm.registry import MODELS

CLASSES = 5


def classifier(depth: int = 8, classes: int = CLASSES, width: int = 8, **preprocessor: Any) -> dict[str, Any]:
    """A CIFAR-type residual network for 16 px images."""
    return {
        "type": "mmpretrain.ImageClassifier",
        "backbone": {"type": "kd_mm.CIFARResNet", "depth": depth, "widths": (width, width, 2 * width, 4 * width)},
        "neck": {"type": "mmpretrain.GlobalAveragePooling"},
        "head": {
            "type": "mmpretrain.LinearClsHead",
            "num_classes": classes,
            "in_channels": 4 * width,
            "loss": {"type": "mmpretrain.CrossEntropyLoss"},
        },
        "data_preprocessor": {"mean": [120.0] * 3, "std": [60.0] * 3, "num_classes": classes, **preprocessor},
    }


def recipe(name: str = "mtkd_ssr", **changes: Any) -> dict[str, Any]:
    """A shipped recipe with values replaced; dotted keys reach inside."""
    full = Config.fromfile(config_root() / "_base_" / "recipes" / f"{name}.py")[name].to_dict()
    for key, value in changes.items():
        *path, last = key.split(".")
        inner = full
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return full


def build(ready: bool = True, seed: int = 0, **config: Any) -> kd_mm.distillers.Distiller:
    """A Distiller; the teacher has random weights, its exits count as trained where ``ready``."""
    init_default_scope("mmpretrain")
    torch.manual_seed(seed)
    defaults = {
        "type": "kd_mm.Distiller",
        "student": classifier(),
        "teacher": {"config": classifier(14, width=16), "random_weights": True},
        "recipe": recipe(),
        "input_size": 16,
    }
    model = MODELS.build(copy.deepcopy({**defaults, **config}))
    if ready:
        for teacher in model.teachers.values():
            teacher.exits_ready = True
    return model


def batch(size: int = 6, classes: int = CLASSES, pixels: int = 16, seed: int = 0) -> dict[str, Any]:
    """Raw images and labels, as a data loader gives them."""
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(0, 256, (3, pixels, pixels), generator=generator, dtype=torch.uint8) for _ in range(size)]
    return {"inputs": images, "data_samples": [DataSample().set_gt_label(i % classes) for i in range(size)]}


def losses_of(model: nn.Module, **options: Any) -> dict[str, Any]:
    """The losses of a training step."""
    return model(**model.data_preprocessor(batch(**options), True), mode="loss")


def total(losses: dict[str, Any]) -> Tensor:
    """The sum that the engine takes of a model's losses."""
    return BaseModel.parse_losses(None, losses)[0]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def count_calls(modules: dict[str, nn.Module]) -> dict[str, int]:
    """Count how often each module is entered from now on."""
    calls = dict.fromkeys(modules, 0)
    for name, module in modules.items():
        module.register_forward_pre_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    return calls


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
