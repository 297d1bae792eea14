"""Parts of a config that the engine builds: where their types are looked up, and which options it reads itself."""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mmengine import registry as engine
from mmengine.optim import OptimWrapper
from mmengine.registry import Registry
from mmengine.runner import LogProcessor, Runner, TestLoop, ValLoop
from mmengine.visualization import Visualizer
from torch.utils.data import DataLoader

from kd_mm.registry import PREPARATIONS, SCHEDULES, TASKS

Component = Callable[..., Any]


@dataclass(frozen=True)
class Kind:
    """What the engine builds from a part of a config."""

    registries: tuple[Registry, ...] = ()  # where its type is looked up
    default: Component | None = None  # what is built where it has no type; None: nothing is known about such a part
    extra: tuple[str, ...] = ()  # options that the engine reads before it builds the part
    typed: bool = False  # a part without a type is an error
    numbers: bool = False  # words instead of numbers are errors


_LOADER_EXTRA = ("batch_sampler", "collate_fn", "dataset", "num_batch_per_epoch", "sampler", "worker_init_fn")
LOADER = Kind(default=DataLoader, extra=_LOADER_EXTRA, numbers=True)
DATASET, SAMPLER = Kind((engine.DATASETS,)), Kind((engine.DATA_SAMPLERS,))
TRANSFORM, FUNCTION = Kind((engine.TRANSFORMS,)), Kind((engine.FUNCTIONS,))
OPTIMIZER = Kind((engine.OPTIMIZERS,), numbers=True)
HOOK = Kind((engine.HOOKS,), extra=("priority",), typed=True)
METRIC = Kind((engine.METRICS, engine.EVALUATOR), typed=True)
MODEL = Kind((engine.MODELS, engine.TASK_UTILS, PREPARATIONS, SCHEDULES, TASKS))
#: What the engine builds from the keys at the top of a config.
SECTIONS = {
    "model": MODEL,
    "data_preprocessor": Kind((engine.MODELS,)),
    "train_dataloader": LOADER,
    "val_dataloader": LOADER,
    "test_dataloader": LOADER,
    "train_cfg": Kind((engine.LOOPS,), numbers=True),
    "val_cfg": Kind((engine.LOOPS,), ValLoop),
    "test_cfg": Kind((engine.LOOPS,), TestLoop),
    "optim_wrapper": Kind((engine.OPTIM_WRAPPERS,), OptimWrapper, ("constructor", "paramwise_cfg"), numbers=True),
    "param_scheduler": Kind((engine.PARAM_SCHEDULERS,), extra=("convert_to_iter_based",), typed=True, numbers=True),
    "val_evaluator": METRIC,
    "test_evaluator": METRIC,
    "default_hooks": HOOK,
    "custom_hooks": HOOK,
    "visualizer": Kind((engine.VISUALIZERS,), Visualizer),
    "log_processor": Kind((engine.LOG_PROCESSORS,), LogProcessor),
    "randomness": Kind(default=Runner.set_randomness),
    "model_wrapper_cfg": Kind((engine.MODEL_WRAPPERS,)),
}
#: How alike a name and a misspelling of it are where a name of another kind may stand, too.
ALIKE = 0.85


def find_component(name: str, kind: Kind, scope: str) -> Component | None:
    """Return the component of a name; where registries of one kind hold several, one that takes any option."""
    found: list[Component] = []
    with contextlib.suppress(ImportError):
        importlib.import_module(f"{scope}.registry")  # makes the children of this scope
    for registry in kind.registries:
        try:
            component = registry.children.get(scope, registry).get(name)
        except RuntimeError:  # it is no name of the registry, and a module is called so
            component = _anything
        if component is not None and component not in found:
            found.append(component)
    return found[0] if len(found) == 1 else _anything if found else None


def _anything(**options: Any) -> None:
    """Stand for a component of which nothing is known."""


def unknown_type(name: str, key: str, kind: Kind, scope: str) -> Iterator[str]:
    """Yield what is wrong with a type that no registry has, where that is certain or a name is near."""
    names = [known for registry in kind.registries for known in _names(registry, scope)]
    certain = kind is not MODEL or "." in name or ".recipe.losses." in key
    near = [own for own in (f"kd_mm.{name}", name.rpartition(".")[2]) if own in names][:1]
    near = near or difflib.get_close_matches(name, names, n=1, **({} if certain else {"cutoff": ALIKE}))
    if near:
        yield f"{key}.type: there is no {name!r}, did you mean {near[0]!r}?"
    elif certain and (kind is not MODEL or "." not in name or name.partition(".")[0] in kind.registries[0].children):
        yield f"{key}.type: there is no {name!r}; is the module that defines it in custom_imports?"


def _names(registry: Registry, scope: str) -> Iterator[str]:
    for related in (registry, *registry.children.values()):
        if related.scope in (scope, registry.scope):
            yield from related.module_dict
        yield from (f"{related.scope}.{name}" for name in related.module_dict)
