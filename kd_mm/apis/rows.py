"""The rows of a comparison: configs as they are, plain configs under recipes, recipes with something changed."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from kd_mm.apis.compose import check_overrides, compose
from kd_mm.apis.explain import unknown_option
from kd_mm.apis.run import override, read_config
from kd_mm.utils.suggest import nearest

#: Keys that only a distillation has.
_OF_DISTILLER = ("model.recipe", "model.student", "model.teacher", "model.stages")


def read_rows(
    configs: Sequence[str],
    distillers: Sequence[str] = (),
    teacher: Sequence[str] | None = None,
    checkpoint: Sequence[str] | None = None,
    ablate: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    vary: Mapping[str, Any] | None = None,
) -> dict[str, Config]:
    """Return the config of each row by its name, in the order of the table.

    Args:
        configs: Paths; each is a row under its file's name.
        distillers: Recipes, each a further row for every config; names joined by ``+`` make one.
        teacher: Config of the teacher of ``distillers``, or several.
        checkpoint: Its weights, or theirs.
        ablate: Losses of the recipes that are left out: for each recipe that has them a further row for each one alone
            and for each pair, the recipe's other losses as they are.
        options: Overrides of config keys; those of a distillation are left out for plain configs.
        vary: A value or several by config key: for each row that has the part that holds the key a further row for each
            value, everything else as it is.

    Raises:
        ValueError: A config or a recipe twice, no such recipe, a loss to ablate that no recipe has, or a key to vary
            that no row has or that its part does not take.
    """
    twice = next((name for name in distillers if list(distillers).count(name) > 1), None)
    if twice:
        raise ValueError(f"--distillers: recipe {twice} is given twice")
    given = dict(options or {})
    plain_options = {key: value for key, value in given.items() if not key.startswith(_OF_DISTILLER)}
    rows: dict[str, Config] = {}
    ablated = False
    for path in configs:
        name = Path(path.split("::")[-1]).stem
        if name in rows:
            raise ValueError(f"compare: config {name} is given twice")
        plain = read_config(path)
        rows[name] = copy.deepcopy(plain)
        override(rows[name], given if "recipe" in plain.model else plain_options)
        for distiller in distillers:
            config = compose(plain, distiller, teacher, checkpoint, given)
            check_overrides(plain, given)
            override(config, given)
            label = f"{distiller}_{name}" if len(configs) > 1 else distiller
            rows[label] = config
            parts = _ablations(label, config, ablate)
            ablated = ablated or bool(parts)
            rows.update(parts)
    if ablate and not ablated:
        named = [loss for config in rows.values() for loss in _losses(config)]
        missing = next((loss for loss in ablate if loss not in named), ablate[0])
        raise ValueError(f"--ablate {missing}: no recipe of --distillers has this loss{nearest(missing, named)}")
    return _varied(rows, vary or {})


def _varied(rows: Mapping[str, Config], vary: Mapping[str, Any]) -> dict[str, Config]:
    """Return the rows, each followed by its variants: one key with one other value."""
    found = dict.fromkeys(vary, False)
    varied: dict[str, Config] = {}
    for name, row in rows.items():
        varied[name] = row
        for key, given in vary.items():
            if not _holds(row, key):
                continue
            found[key] = True
            # Elsewhere the engine takes options out before it builds a part, such as a hook's priority.
            wrong = unknown_option(row, key) if key.startswith("model.recipe.") else None
            if wrong:
                raise ValueError(f"--vary {wrong}")
            for value in given if isinstance(given, list) else [given]:
                other = copy.deepcopy(row)
                override(other, {key: value})
                label = f"{name}-{key.rpartition('.')[2]}-{value}"
                if label in varied:
                    raise ValueError(f"--vary {key}: row {label} comes twice; give each value once")
                varied[label] = other
    missing = [key for key, there in found.items() if not there]
    if missing:
        raise ValueError(f"--vary {missing[0]}: no row of the table has the part that this key belongs to")
    return varied


def _holds(config: Config, key: str) -> bool:
    part: Any = dict(config.items())
    for name in key.split(".")[:-1]:
        if not isinstance(part, Mapping) or part.get(name) is None:
            return False
        part = part[name]
    return True


def _ablations(label: str, config: Config, ablate: Sequence[str]) -> dict[str, Config]:
    if not ablate or any(loss not in _losses(config) for loss in ablate):
        return {}
    rows = {}
    for count in (1, 2):
        for kept in itertools.combinations(ablate, count):
            if len(kept) == len(ablate):
                continue
            less = copy.deepcopy(config)
            for loss in ablate:
                if loss not in kept:
                    less.model.recipe.losses[loss].loss_weight = 0.0
            rows[f"{label}-{'-'.join(kept)}"] = less
    return rows


def _losses(config: Config) -> dict[str, Any]:
    return dict((config.model.get("recipe") or {}).get("losses") or {})
