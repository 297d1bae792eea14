"""What a run starts from: the weights of ``load_from`` and of ``init_cfg``, and the names of parameters in the config,
compared with the network's.
"""

import contextlib
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kd_mm.distillers import Distiller
from kd_mm.utils.checkpoint import (
    OWN_PREFIX,
    below_prefix,
    check_weights,
    pretrained,
    read_checkpoint,
    resized,
    student_state_dict,
    translated,
    warn_of_adapters,
)
from kd_mm.utils.contexts import unwrapped
from kd_mm.utils.safe_load import UnsafeCheckpointError, is_safetensors
from kd_mm.utils.suggest import join_first, nearest, warn

#: What the engine's constructor of optimizers reads in ``paramwise_cfg`` and its ``custom_keys``.
_PARAMWISE = {"custom_keys", "bypass_duplicate", "bias_lr_mult", "dcn_offset_lr_mult", "lr_mult", "decay_mult"}
_PARAMWISE |= {"weight_decay", *(f"{kind}_decay_mult" for kind in ("bias", "norm", "flat", "dwconv"))}


class LeftOverWeightsHook(Hook):
    """Finds the weights in a loaded file, and warns in one line of those that the model does not have.

    What distillation stores beside the student is left out by a plain config by intent. A plain config that starts from
    a file, such as one of other classes, keeps its own weights where the file's have another shape, with one line.
    """

    priority = "VERY_HIGH"  # before hooks that read them, such as EMAHook

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Have the loading that follows report what it left over, after whatever renaming the model does.

        Raises:
            ValueError: The file holds no weights, none has the name of one of the backbone's and they are not those of
                the network from another toolkit, or one is not finite.
        """
        model = unwrapped(runner)
        origin, resumed = runner.cfg.get("load_from") or "the checkpoint", runner.cfg.get("resume")
        network = model.student if isinstance(model, Distiller) else model
        given = checkpoint["state_dict"] = _network_weights(network, checkpoint, origin, resumed)
        if not resumed:
            given.update(resized(network, given))
        if network is model and not resumed:
            _keep_own_shapes(network.state_dict(), given, origin)
        check_weights(network.state_dict(), given, origin)

        def report(module: nn.Module, result: Any) -> None:
            handle.remove()
            _warn_of_others(result, network, network is model, origin)

        handle = model.register_load_state_dict_post_hook(report)


def _network_weights(network: nn.Module, checkpoint: Any, origin: str, resumed: Any) -> Any:
    """Return the weights of a file under the network's names; of another toolkit they are renamed."""
    stored = checkpoint if isinstance(checkpoint, Mapping) else {}
    given = (resumed and stored.get("state_dict")) or student_state_dict(stored)
    if not given:
        raise ValueError(f"{origin} holds a {type(checkpoint).__name__} and no dict of weights: save its state_dict()")
    own = network.state_dict()
    trunk = {name for name in own if name.startswith("backbone.")} or own.keys()
    if trunk & stored.get("state_dict", {}).keys():
        return stored["state_dict"]  # the same one: it has the versions of its modules as an attribute
    found = dict(below_prefix(own, given))
    changed = own.keys() & given.keys() and any(name.startswith("backbone.") for name in given)
    return found if changed or trunk & found.keys() else _of_another_toolkit(network, given, origin)


def _keep_own_shapes(own: Mapping[str, Tensor], given: dict[str, Tensor], origin: str) -> None:
    """Put the network's own weights where the given ones have another shape, and warn of it."""
    unlike = {key: given[key] for key, value in own.items() if key in given and given[key].shape != value.shape}
    given.update({key: own[key] for key in unlike})
    shapes = [f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}" for key, value in unlike.items()]
    if shapes:
        warn(
            f"{origin}: {len(shapes)} of its {len(given)} weights have another shape, as those of another number of "
            f"classes, and the network's own stay as they were initialised: {join_first(shapes)}"
        )


def _warn_of_others(result: Any, network: nn.Module, plain: bool, origin: str) -> None:
    """Warn of weights that the network has and a file lacks, and of those that are left over."""
    lacking = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
    if lacking and plain:
        total = len(network.state_dict())
        line = f"{len(lacking)} of the network's {total} weights are not in it and stay as initialised"
        warn(f"{origin}: {line}: {join_first(lacking)}")
    names = [key.removeprefix("student.") for key in result.unexpected_keys if not key.startswith(OWN_PREFIX)]
    if names:
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        line = f"{len(names)} of its weights are left over, {type(network).__name__} has no such weights ({listed})"
        warn(f"{origin}: {line}")


def _of_another_toolkit(network: nn.Module, given: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Return the weights under the network's names."""
    try:
        found, why = translated(network, given), ""
    except ValueError as error:
        found, why = {}, f" ({error})"
    if not found:
        raise ValueError(
            f"{origin}: none of its weights ({', '.join([*given][:3])}, ...) has the name of one of the network's "
            f"backbone{why}: kd-mm convert renames those of other toolkits by a config of their number of classes, and "
            "a backbone alone goes into init_cfg=dict(type='Pretrained', checkpoint=PATH) of model.backbone"
        )
    return dict(found)


def check_pretrained(model: nn.Module) -> None:
    """Stop where the file of an ``init_cfg`` fills none of the weights of its part; warn where it fills less than half.

    Raises:
        ValueError: No name of a weight of the part is in the file.
    """
    for name, part in model.named_modules():
        key = f"model.{name}".rstrip(".") + ".init_cfg"
        for given in pretrained(part):
            if "://" not in given["checkpoint"]:
                _check_pretrained(key, part, given)


def _check_pretrained(key: str, part: nn.Module, given: Mapping[str, Any]) -> None:
    stored, file = read_checkpoint(given["checkpoint"]), given["checkpoint"]
    prefix = f"{given.get('prefix') or ''}.".lstrip(".").replace("..", ".")
    names = [name.removeprefix("module.") for name in stored.get("state_dict", stored)]
    own = part.state_dict()
    filled = own.keys() & {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    if not filled:
        first = next(iter(own), "")
        fitting = [name.removesuffix(f".{first}") for name in names if name.endswith(f".{first}")]
        remedy = f"set prefix={fitting[0]!r} in it" if fitting else "kd-mm convert renames those of other toolkits"
        child = next((name for name, each in part.named_children() if each.state_dict().keys() & {*names}), "")
        remedy = f"they are those of its {child}: set init_cfg there" if child else remedy
        raise ValueError(
            f"{key}: none of the weights of {file} has the name of one of {type(part).__name__}'s "
            f"({join_first(names)}): {remedy}"
        )
    if len(filled) < len(own) / 2:
        line = f"{key}: {file} has {len(filled)} of the {len(own)} weights of {type(part).__name__}"
        warn(f"{line}, the others stay as they were drawn")


def check_frozen(runner: Runner) -> None:
    """Warn of parts of the trained network that are frozen at the values that they were initialised with."""
    network = unwrapped(runner)
    warn_of_adapters(network.student if isinstance(network, Distiller) else network, "model")
    if runner.cfg.get("load_from") or runner.cfg.get("resume"):
        return
    model, filled = unwrapped(runner), list[str]()
    network, key = (model.student, "model.student") if isinstance(model, Distiller) else (model, "model")
    for name, part in network.named_modules():
        options = vars(part)
        if pretrained(part):
            filled.append(f"{name}." if name else "")
        if any(f"{name}.".startswith(above) for above in filled):
            continue
        stages, kept = options.get("frozen_stages"), list[tuple[str, str]]()
        learns = all(parameter.requires_grad for parameter in part.parameters())  # 0 is none of ConvNeXt's stages
        if isinstance(stages, int) and stages >= 0 and not learns:
            kept.append((f"frozen_stages={stages} keeps it as it was initialised", "frozen_stages=-1"))
        if options.get("norm_eval") and _keeps_statistics(part):
            kept.append(("norm_eval=True keeps the statistics of its norms as initialised", "norm_eval=False"))
        for line, remedy in kept:
            warn(f"{key}.{name}: {line}, since no weights are loaded: set load_from, init_cfg or {remedy}")


def _keeps_statistics(part: nn.Module) -> bool:
    """Return whether batch norms of a part stay in evaluation mode when it is trained."""
    before = part.training
    part.train()
    kept = any(isinstance(each, _BatchNorm) and not each.training for each in part.modules())
    part.train(before)
    return kept


def check_parameter_keys(runner: Runner) -> None:
    """Stop at words of ``paramwise_cfg`` that the engine would pass over, and that are near to one that it reads; warn
    of keys of ``custom_keys`` that no parameter has in its name.

    Raises:
        ValueError: Naming the nearest option or part of a name.
    """
    options, where = runner.cfg.optim_wrapper.get("paramwise_cfg") or {}, "optim_wrapper.paramwise_cfg"
    keys = options.get("custom_keys") or {}
    for option in {*options}.union(*keys.values()) - _PARAMWISE:
        if "constructor" not in runner.cfg.optim_wrapper and difflib.get_close_matches(option, _PARAMWISE, n=1):
            raise ValueError(f"{where}: nothing reads {option!r}{nearest(option, sorted(_PARAMWISE))}")
    names = [name for name, _ in runner.model.named_parameters()] if keys else []
    for key in keys:
        if any(key in name for name in names):
            continue
        near = difflib.get_close_matches(key, {part for name in names for part in name.split(".")}, n=1, cutoff=0.8)
        line = f"{where}.custom_keys: no parameter has {key!r} in its name"
        if near:
            raise ValueError(f"{line}, did you mean {near[0]!r}?")
        runner.logger.warning(line)


def check_checkpoint(checkpoint: Any) -> None:
    """Stop at a file that the engine could not start from or go on from; addresses and None pass.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint, is cut short, or is one of safetensors.
    """
    if checkpoint is None or checkpoint is False:
        return
    if not isinstance(checkpoint, str | Path) or not str(checkpoint):
        raise ValueError(f"load_from={checkpoint!r} is no path of a file of weights")
    if "://" in str(checkpoint):
        return
    path = Path(checkpoint).expanduser()
    if path.is_file() and is_safetensors(path):
        raise ValueError(
            f"load_from={checkpoint} is a safetensors file, which the engine does not read: write it as another by "
            "torch.save(safetensors.torch.load_file(PATH), NEW)"
        )
    with contextlib.suppress(UnsafeCheckpointError):  # the engine may read it
        read_checkpoint(str(checkpoint))
