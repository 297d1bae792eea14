"""Keys and variables of a config that nothing reads."""

import ast
import contextlib
import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from kd_mm.utils.config import as_list, packaged, parts_of
from kd_mm.utils.suggest import join_first

#: Keys at the top of a config that the engine and the tools read beside the Runner's own arguments.
_READ_ELSEWHERE = {
    "activation_checkpointing",
    "compile",
    "custom_imports",
    "efficient_conv_bn_eval",
    "find_unused_parameters",
    "model_wrapper_cfg",
    "runner_type",
    "size_mismatch",
    "sync_bn",
    "tta_cfg",
    "tta_model",
    "tta_pipeline",
}
#: Variables of upstream's configs that look like such keys.
_VARIABLES = {"train_pipeline", "test_pipeline", "val_pipeline"}
#: How alike a name and a misspelling of it are where a name of another kind may stand, too.
_ALIKE = 0.85
#: Keys that mmcv 1 read at the top of a config, or that one may take for such, and what is read in their stead.
_FORMER = {
    "optimizer": "optim_wrapper",
    "optimizer_config": "optim_wrapper.clip_grad",
    "fp16": "optim_wrapper, or give --amp",
    "lr_config": "param_scheduler",
    "runner": "train_cfg",
    "total_epochs": "train_cfg.max_epochs",
    "evaluation": "val_cfg",
    "checkpoint_config": "default_hooks.checkpoint",
    "log_config": "default_hooks.logger",
    "resume_from": "load_from, and give --resume",
    "seed": "randomness.seed",
    **dict.fromkeys(("max_epochs", "num_epochs", "epochs"), "train_cfg.max_epochs"),
    "batch_size": "train_dataloader.batch_size",
    "lr": "optim_wrapper.optimizer.lr",
    "classes": "metainfo=dict(classes=...) of each data set",
}
#: Words in mmcv 1's ``data``, a name that people give to parts of a config, too.
_FORMER_DATA = {"samples_per_gpu", "workers_per_gpu", "train_dataloader", "train"}


def known_keys() -> set[str]:
    """Return the keys at the top of a config that something reads."""
    return (set(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"}) | _READ_ELSEWHERE


def unread_keys(config: Config) -> list[str]:
    """Return one line for each key at the top of a config that nothing reads and that is meant to be read.

    These are keys of mmcv 1 and other names of values, misspelt keys, variables that a base has copied, and a
    ``data_preprocessor`` beside the network's own. Configs may hold variables of any name, so nothing is stopped.
    """
    return _former_keys(config) + _misspelt_keys(config) + stale_variables(config) + _unused_preprocessor(config)


def _former_keys(config: Config) -> list[str]:
    given = config._cfg_dict.to_dict()
    parts = [None, *(value for key, value in parts_of(given) if key not in _FORMER)]  # where it is a variable
    lines = [f"nothing reads {key!r}: write {new}" for key, new in _FORMER.items() if given.get(key) not in parts]
    if isinstance(data := given.get("data"), Mapping) and _FORMER_DATA & {*data}:
        lines.append("nothing reads 'data': write train_dataloader, val_dataloader and test_dataloader")
    return [f"config: {line}" for line in lines]


def _misspelt_keys(config: Config) -> list[str]:
    known, lines = known_keys(), []
    for key in config:
        near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=_ALIKE)
        if key in known | _VARIABLES or not near or set(near[0].split("_")) < set(key.split("_")):
            continue
        lines.append(f"config: nothing reads the key {key!r}, did you mean {near[0]!r}?")
    return lines


def stale_variables(config: Config) -> list[str]:
    """Return one line for each variable that a config sets anew and does not use, and whose former value its bases use.

    A base copies its variables where it uses them: ``train_pipeline`` of the child changes no data set of the base.
    """
    file = Path(config.filename or "")
    if file.suffix != ".py" or not file.is_file():
        return []
    tree = ast.parse(file.read_text("utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assigned = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    bases: dict[str, Any] = {}
    with contextlib.suppress(KeyError, ValueError, OSError):  # none, or one that is computed
        for base in as_list(ast.literal_eval(assigned["_base_"])):
            path = packaged(base) if "::" in base else file.parent / base
            bases.update(Config.fromfile(path, import_custom_modules=False)._cfg_dict.to_dict())
    known, lines = known_keys(), []
    read = list(parts_of({name: part for name, part in config.items() if name in known}))
    for name in sorted(assigned.keys() & bases.keys() - known - used):
        old, new = bases[name], config.get(name)
        copies = [path for path, part in read if old and isinstance(part, str | list | dict) and part == old]
        if copies and new != old:
            lines.append(f"config: {name} is set and not used: {join_first(copies)} has the base's, set that instead")
    return lines


def _unused_preprocessor(config: Config) -> list[str]:
    """Return one line where a config has a ``data_preprocessor`` that the engine does not take: the network has one."""
    model = config.get("model")
    networks = [model.get("student"), model] if isinstance(model, Mapping) else []
    network = next((part for part in networks if isinstance(part, Mapping)), {})
    own, outer = network.get("data_preprocessor"), config.get("data_preprocessor")
    if own and outer and any(own.get(name) != value for name, value in outer.items() if name != "_scope_"):
        return ["config: data_preprocessor is set and not used: the model has its own, set that instead"]
    return []
