"""Warnings on what the engine passes over in silence: misspelt keys of a config, weights that nobody takes."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from kd_mm.utils.checkpoint import OWN_PREFIX

#: Keys that the engine and the tools read beside the Runner's own arguments.
_READ_ELSEWHERE = {
    "activation_checkpointing",
    "compile",
    "custom_imports",
    "efficient_conv_bn_eval",
    "find_unused_parameters",
    "model_wrapper_cfg",
    "runner_type",
    "sync_bn",
    "tta_cfg",
    "tta_model",
    "tta_pipeline",
}
#: Helper variables of upstream's configs that look like keys.
_HELPERS = {"train_pipeline", "test_pipeline", "val_pipeline"}
#: How alike a key and its misspelling are; no variable of upstream's 1,800 configs comes near it.
_ALIKE = 0.85


def misspelt_keys(config: Iterable[str]) -> list[str]:
    """Return one line for each top-level key that nothing reads and that looks like one that is read.

    Configs may hold variables of any name, so only near matches are told.
    """
    known = (set(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"}) | _READ_ELSEWHERE
    lines = []
    for key in config:
        near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=_ALIKE)
        if key in known | _HELPERS or not near or set(near[0].split("_")) < set(key.split("_")):
            continue
        lines.append(f"config: nothing reads the key {key!r}, did you mean {near[0]!r}?")
    return lines


class LeftOverWeightsHook(Hook):
    """Warns in one line of weights in a loaded file that the model has no place for.

    What distillation keeps beside the student is no matter: a plain config leaves it out by intent.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Have the loading that follows say what it left over, after whatever renaming the model does."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        origin = runner.cfg.get("load_from") or "the checkpoint"

        def tell(module: nn.Module, result: Any) -> None:
            handle.remove()
            names = [key.removeprefix("student.") for key in result.unexpected_keys if not key.startswith(OWN_PREFIX)]
            if names:
                listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                network = type(getattr(model, "student", model)).__name__
                runner.logger.warning(
                    f"{origin}: {len(names)} of its weights are left over, {network} has no place for them ({listed})"
                )

        handle = model.register_load_state_dict_post_hook(tell)
