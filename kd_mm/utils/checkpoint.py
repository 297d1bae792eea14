"""Weights of checkpoints and the networks that they fill, with a clear line when something does not fit."""

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from kd_mm.utils.config import as_list
from kd_mm.utils.foreign_weights import FAMILIES, OTHER_CLASSES, own_names
from kd_mm.utils.safe_load import WEIGHT_KEYS, load_safely
from kd_mm.utils.suggest import nearest_file

#: Prefixes under which wrappers and other toolkits store a plain network.
WRAPPER_PREFIXES = ("module.", "student.", "architecture.", "ema_")
#: Parts of names by which FSDP, torch.compile and activation checkpointing wrap a network or any of its parts.
_WRAPPERS = {"_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module"}
#: Last parts of names under which profilers, averages of weights and detectron2 store tensors of their own.
_EXTRAS = ("total_ops", "total_params", "n_averaged", "pixel_mean", "pixel_std")
#: Prefix of everything that distillation owns in a checkpoint.
OWN_PREFIX = "distill."


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint file (or URL) on the CPU with ``weights_only=True``.

    The types that mmengine itself writes beside the weights (history buffers, numpy arrays) are allowed; nothing else
    is executed. URLs go through mmengine's loader and its cache.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is no checkpoint, is cut short, holds no dict, or holds objects that would have to be
            executed.
    """
    if "://" in path:
        from mmengine.runner import CheckpointLoader

        return CheckpointLoader.load_checkpoint(path, map_location="cpu")
    file = Path(path).expanduser()
    if file.is_dir():
        raise FileNotFoundError(f"checkpoint {file} is a folder; name a file in it")
    if not file.is_file():
        raise FileNotFoundError(f"checkpoint {file} does not exist{nearest_file(file)}")
    stored = load_safely(file)
    if not isinstance(stored, Mapping):
        raise ValueError(f"{file} holds a {type(stored).__name__} and no dict of weights: save model.state_dict()")
    known = isinstance(stored.get("meta"), Mapping)  # other toolkits store what they like there
    return {key: value for key, value in stored.items() if known or key != "meta"}


def trained_classes(checkpoint: Mapping[str, Any]) -> list[str]:
    """Return the classes that a checkpoint names, as mmengine or mmcv 1 stores them; empty where it names none."""
    meta = checkpoint.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}  # other toolkits store what they like there
    places = [place.get(key) for place in (meta.get("dataset_meta") or {}, meta) for key in ("classes", "CLASSES")]
    found = next(filter(None, places), ())
    return [found] if isinstance(found, str) else list(map(str, found))


def student_state_dict(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the plain network's weights of a checkpoint, whatever stood around them.

    The weights are looked for under :data:`WEIGHT_KEYS`, at the top, and under other keys; wrapper prefixes that all
    keys share, and torch's wherever they are, are stripped; what distillation owns, what profilers add, and the
    averages that mmcv 1 stored beside the weights (``ema_backbone_conv1_weight``) are left out.
    """
    weights = {
        ".".join(part for part in key.split(".") if part not in _WRAPPERS): value
        for key, value in _tensors(checkpoint).items()
    }
    averages = {f"ema_{name}" for key in weights for name in (key, key.replace(".", "_"))}.intersection(weights)
    if averages:
        print_log(f"the plain weights are used, not their {len(averages)} averages under ema_...", "current")
    owned = {key for key in weights if key.startswith(OWN_PREFIX) or key.rpartition(".")[2] in _EXTRAS}
    weights = {key: value for key, value in weights.items() if key not in averages | owned}
    for prefix in WRAPPER_PREFIXES:
        if weights and all(key.startswith(prefix) for key in weights):
            weights = {key[len(prefix) :]: value for key, value in weights.items()}
    return weights


def _tensors(stored: Any) -> dict[str, Tensor]:
    """Return the tensors of the mapping that holds the weights, at whatever depth."""
    if not isinstance(stored, Mapping):
        return {}
    names = [*WEIGHT_KEYS, *(key for key in stored if isinstance(key, str))]  # numbers are those of an optimizer
    parts = {key: weights for key in names if (weights := _tensors(stored.get(key)))}
    first = next((key for key in WEIGHT_KEYS if key in parts), max(parts, key=lambda key: len(parts[key]), default=""))
    found = {key: value for key, value in stored.items() if isinstance(value, Tensor)}
    if first in WEIGHT_KEYS or (first and len(parts[first]) > len(found)):  # others, as an optimizer's, hold a few each
        if others := [key for key in parts if key != first and 2 * len(parts[key]) > len(parts[first])]:
            hint = " (EMAHook stores the averages under state_dict)" if "ema_state_dict" in others else ""
            print_log(f"the weights under {first!r} are used, not those under {', '.join(others)}{hint}", "current")
        return parts[first]
    return found


def distill_state_dict(checkpoint: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """Return the weights that distillation stored under ``distill.<prefix>``, without the prefix."""
    weights = checkpoint.get("state_dict", checkpoint)
    full = OWN_PREFIX + prefix
    return {key[len(full) :]: value for key, value in weights.items() if key.startswith(full)}


def fill(model: nn.Module, weights: Mapping[str, Tensor], what: str, origin: str) -> None:
    """Load ``weights`` into ``model``; every key and every shape must fit.

    Where they do not, the weights below a prefix are looked at (:func:`below_prefix`), or, for a backbone in
    :data:`kd_mm.utils.foreign_weights.FAMILIES`, the names of another toolkit are translated.

    Args:
        model: The network to fill.
        weights: Its weights by name.
        what: Who is filled, for the message, e.g. ``teacher 'r34'``.
        origin: Where the weights come from, for the message.

    Raises:
        ValueError: Keys are missing, left over or of another shape, or a value is not finite; nothing was loaded.
    """
    if not weights:
        raise ValueError(f"{what}: {origin} holds no weights")
    own, given = model.state_dict(), weights
    weights = below_prefix(own, given)
    weights = {**weights, **resized(model, weights)}
    if problem := mismatch(own, weights):
        try:
            weights = translated(model, given)
        except ValueError as error:
            raise ValueError(f"{what}: {origin} does not fit its config: {error}") from error
        if not weights:
            unlike = [key for key, value in own.items() if key in given and given[key].shape != value.shape]
            alike = "missing" not in problem and all(given[key].shape[1:] == own[key].shape[1:] for key in unlike)
            hint = f"; {OTHER_CLASSES}" if unlike and alike else ""
            raise ValueError(f"{what}: {origin} does not fit its config: {problem}{hint}")
    check_weights(own, weights, f"{what}: {origin}")
    warn_of_adapters(model, what)
    model.load_state_dict(dict(weights), strict=False)  # old files lack BN's batch counters
    print_log(f"{what}: loaded {len(weights)} tensors from {origin}", logger="current")


def pretrained(part: nn.Module) -> list[Mapping[str, Any]]:
    """Return the entries of a module's own ``init_cfg`` that fill it from a file."""
    given = as_list(vars(part).get("init_cfg"))
    return [each for each in given if isinstance(each, Mapping) and each.get("type") == "Pretrained"]


def warn_of_adapters(model: nn.Module, what: str) -> None:
    """Warn of mmpretrain's ``LoRAModel`` around random weights, which no checkpoint has and no training changes."""
    for name, part in model.named_modules():
        if type(part).__name__ == "LoRAModel" and not any(map(pretrained, part.modules())):
            line = f"{what}: {name}: LoRAModel keeps the weights of its module as they were drawn at random, and its"
            remedy = "checkpoints lack them: set init_cfg=dict(type='Pretrained', checkpoint=PATH) of the module"
            print_log(f"{line} {remedy}", "current", logging.WARNING)


def resized(model: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that the model resizes when it loads them, such as position embeddings of other image sizes.

    Only a part's own loading tells which they are, so the model has them then.
    """
    own, found = model.state_dict(), {}
    for key in [key for key, value in own.items() if key in given and given[key].shape != value.shape]:
        with contextlib.suppress(RuntimeError, KeyError):  # not resized
            model.load_state_dict({key: given[key]}, strict=False)
            found[key] = own[key].clone()
    return found


def check_weights(own: Mapping[str, Tensor], given: Mapping[str, Tensor], origin: str) -> None:
    """Check that no weight of a network's ``own`` is infinite or NaN in ``given``, or of another kind of number.

    Raises:
        ValueError: One is.
    """
    weights = {name: given[name] for name, value in own.items() if name in given and value.is_floating_point()}
    full = {name for name, value in weights.items() if value.is_floating_point() and value.element_size() > 1}
    unlike = [name for name, value in weights.items() if name not in full or value.layout != torch.strided]
    if unlike:
        raise ValueError(
            f"{origin}: {len(unlike)} of its {len(given)} tensors are quantised, complex or sparse ({unlike[0]}): take "
            "the checkpoint from before the quantisation"
        )
    bad = [name for name, value in weights.items() if not value.isfinite().all()]
    if bad:
        raise ValueError(
            f"{origin}: {len(bad)} of its {len(given)} tensors hold values that are infinite or NaN ({bad[0]}): take "
            "an earlier checkpoint, or train with a lower learning rate"
        )


def below_prefix(own: Mapping[str, Any], given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the tensors of ``given`` below the prefix under which the names of ``own`` are, without it.

    A wrapper (DDP, Lightning, an average of weights, ``torch.compile``) gives the network a prefix and may store
    tensors of its own beside it. Where no prefix fits, ``given`` comes back as it is.
    """
    first = next(iter(own), "")
    for prefix in [name.removesuffix(first) for name in given if name.endswith(f".{first}")]:
        inner = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
        if not mismatch(own, inner):
            others = f", {len(given) - len(inner)} others are not" if len(inner) < len(given) else ""
            print_log(f"the weights below {prefix!r} are used{others}", "current")
            return inner
    return given


def translated(model: nn.Module, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return weights under the model's names; nothing where they are no other toolkit's.

    Raises:
        ValueError: They are, and do not fit.
    """
    prefix = next(iter(weights), "").partition(".")[0] + "."
    if all(key.startswith(prefix) for key in weights):
        return translated(model, {key.removeprefix(prefix): value for key, value in weights.items()})
    trunk = dict(model.named_children()).get("backbone")
    foreign = type(trunk).__name__ in FAMILIES and not any(key.startswith("backbone.") for key in weights)
    if not foreign:
        return {}
    found = own_names(model, weights)
    print_log("the weights have the names of another toolkit; they were matched in order", "current")
    return found


def mismatch(own: Mapping[str, Any], given: Mapping[str, Any], extra: bool = True) -> str:
    """Return in one line how ``given`` differs from ``own`` in keys and shapes; empty where it does not."""
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    missing = [key for key in own if key not in given and key not in counters]
    over = [key for key in given if key not in own and key not in counters] if extra else []
    shapes = [key for key in own if key in given and own[key].shape != given[key].shape]
    parts = []
    for kind, keys in (("missing", missing), ("left over", over)):
        if keys:
            parts.append(f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})")
    if shapes:
        key = shapes[0]
        pair = f"{tuple(given[key].shape)} in the file, {tuple(own[key].shape)} in the network"
        parts.append(f"{len(shapes)} of another shape ({key}: {pair})")
    return "; ".join(parts)
