"""Upstream's own faults that stop or slow what its model zoo is used for, mended where the version still has them.

* ``mmdet.SSDHead`` has no ``loss_cls``, because it skips ``AnchorHead.__init__``, but the prediction that it inherits
  asks ``getattr(self.loss_cls, "custom_cls_channels", False)`` (mmdet 3.5.1): SSD trains and cannot predict. Its head
  gets ``loss_cls = None``, which answers no.
* ``mmdet.TridentConv`` holds unset memory where no pretrained weights are loaded: its ``init_cfg`` names a child that
  it does not have and is never reached (mmdet 3.5.1). It starts as that ``init_cfg`` means it to: Kaiming, uniform,
  fan in.
* ``mmdet.PointAssigner`` numbers its points on the CPU and picks among the numbers by a mask where the points are
  (mmdet 3.5.1): RepPoints does not train on a GPU. It numbers them where they are.
* ``mmpretrain.models`` imports its multimodal models wherever transformers 4.28 or newer is installed, and dies of
  transformers 5, which has no longer what they use (mmpretrain 1.3.6). There they are placeholders, as without it.
* ``mmengine.Config`` reads every metafile of a package for each base ``package::path``, looks there for the path
  without its ``.py``, which no metafile lists, and then takes the file of that path (mmengine 0.10.12): half a second
  each. It takes the file right away.
* ``mmengine.Config.pretty_text`` has yapf lay out the whole config, a second or more, for the log, the file, each
  visualizer and each checkpoint anew (mmengine 0.10.12). The same text is laid out once.
* ``mmengine.Config`` marks each component of a base ``package::path`` with its ``_scope_``, and ``mmengine.Runner``
  hands the mark of a ``collate_fn`` on to the function, which has no such argument (mmengine 0.10.12). It is left out.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn


def mend_ssd_head(module: ModuleType) -> None:
    """Let the ``SSDHead`` of a module have a ``loss_cls`` where its own constructor leaves it without one."""
    head: Any = module.SSDHead
    original = head.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if not hasattr(self, "loss_cls"):
            self.loss_cls = None

    head.__init__ = init


def mend_trident_conv(module: ModuleType) -> None:
    """Let the ``TridentConv`` of a module start from weights."""
    conv: Any = module.TridentConv
    original = conv.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        nn.init.kaiming_uniform_(self.weight, mode="fan_in", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    conv.__init__ = init


def mend_point_assigner(module: ModuleType) -> None:
    """Let the ``PointAssigner`` of a module make its tensors where the points are."""
    assigner: Any = module.PointAssigner
    original = assigner.assign

    @functools.wraps(original)
    def assign(self: Any, pred_instances: Any, *args: Any, **kwargs: Any) -> Any:
        with pred_instances.priors.device:
            return original(self, pred_instances, *args, **kwargs)

    assigner.assign = assign


def mend_multimodal(module: ModuleType) -> None:
    """Let mmpretrain count its multimodal packages as missing where transformers lacks what it imports of it."""
    if not module.WITH_MULTIMODAL:
        return
    try:
        usable = hasattr(importlib.import_module("transformers.pytorch_utils"), "find_pruneable_heads_and_indices")
    except Exception:  # one that is broken in itself is of no more use
        usable = False
    vars(module)["WITH_MULTIMODAL"] = usable


def mend_config_lookup(module: ModuleType) -> None:
    """Let the config reader of a module take a packaged config that is where its path says."""
    original = module._get_external_cfg_path

    @functools.wraps(original)
    def get_path(package_path: str, cfg_file: str) -> str:
        file = Path(package_path, ".mim", "configs", cfg_file)
        return str(file) if file.is_file() else original(package_path, cfg_file)

    vars(module)["_get_external_cfg_path"] = get_path


def mend_layout(module: ModuleType) -> None:
    """Let the formatter of a module remember the last texts that it laid out."""
    original, answers = module.FormatCode, dict[str, Any]()

    @functools.wraps(original)
    def format_code(*args: Any, **kwargs: Any) -> Any:
        asked = repr((args, sorted(kwargs.items())))
        if asked not in answers:
            if len(answers) == 4:  # a run has one text or two
                answers.pop(next(iter(answers)))
            answers[asked] = original(*args, **kwargs)
        return answers[asked]

    vars(module)["FormatCode"] = format_code


def mend_collate(module: ModuleType) -> None:
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


MENDS: dict[str, Callable[[ModuleType], None]] = {
    "mmdet.models.dense_heads.ssd_head": mend_ssd_head,
    "mmdet.models.backbones.trident_resnet": mend_trident_conv,
    "mmdet.models.task_modules.assigners.point_assigner": mend_point_assigner,
    "mmpretrain.utils.dependency": mend_multimodal,
    "mmengine.config.config": mend_config_lookup,
    "mmengine.runner.runner": mend_collate,
    "yapf.yapflib.yapf_api": mend_layout,
}


class _Finder(importlib.abc.MetaPathFinder):
    """Mends a module right after it has been imported; importing all of mmdet's models for it would take seconds."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name in MENDS else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            MENDS[name](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Mend what is imported already, and the rest when it is."""
    for name in MENDS.keys() & sys.modules.keys():
        MENDS[name](sys.modules[name])
    sys.meta_path.insert(0, _Finder())
