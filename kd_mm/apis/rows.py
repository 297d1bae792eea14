"""The rows of a sweep: from a sweep file, or from configs, recipes and what is changed in them."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config

from kd_mm.apis.overrides import override, set_epochs
from kd_mm.apis.recipes import compose
from kd_mm.apis.runner import read_config
from kd_mm.checks.component_kinds import SECTIONS
from kd_mm.checks.config import check_config
from kd_mm.utils.config import is_distillation, load_config
from kd_mm.utils.suggest import nearest

#: Keys that only a distillation has.
_DISTILLER_KEYS = (
    "model.recipe",
    "model.student",
    "model.teacher",
    "model.stages",
    "model.compile",
    "default_hooks.teacher_check",
    "default_hooks.prepare_teachers",
)
#: Keys of a row in a sweep file.
_TEACHER_KEYS = ("teacher", "teacher_checkpoint", "teacher_row")
_ROW_KEYS = ("name", "config", "distiller", *_TEACHER_KEYS, "seeds", "epochs", "cfg_options")

#: Keys of a sweep file.
_SWEEP_KEYS = ("rows", "seeds", "metrics", "epochs", "cfg_options")


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        config: A plain config or a distillation, trained by epochs.
        teacher_row: The row that trains the teacher; the last checkpoint of its first seed is used.
        seeds: Its own seeds, instead of the sweep's.
        recipe: That the config was composed with, if any.
        source: Path of the config that it was read from.
    """

    config: Config
    teacher_row: str | None = None
    seeds: tuple[int, ...] | None = None
    recipe: str | None = None
    source: str = ""


@dataclass(frozen=True)
class Sweep:
    """What is trained and tested.

    Attributes:
        rows: By name.
        seeds: Seeds of weights, data order and augmentation.
        metrics: Test metrics, larger is better; the first one chooses the best validation epoch.
    """

    rows: Mapping[str, Row]
    seeds: tuple[int, ...] = (0, 1, 2)
    metrics: tuple[str, ...] = ("accuracy/top1",)

    def __post_init__(self) -> None:
        for what, given in (("configs", list(self.rows)), ("seeds", self.seeds), ("metrics", self.metrics)):
            if not given or len(set(given)) != len(given):
                raise ValueError(f"give one or more {what}, each once; got {list(given)}")
        for seed in (
            seed for seeds in (self.seeds, *(row.seeds or () for row in self.rows.values())) for seed in seeds
        ):
            if not isinstance(seed, int) or not 0 <= seed < 2**32:
                raise ValueError(f"seeds: {seed!r} is no seed; give integers from 0 to 2**32 - 1")

    @property
    def baseline(self) -> str | None:
        """The row of the student alone: the one plain config that trains no teacher, where there is one such row."""
        teachers = {row.teacher_row for row in self.rows.values()}
        plain = [name for name, row in self.rows.items() if name not in teachers and not is_distillation(row.config)]
        return plain[0] if len(plain) == 1 and len(self.rows) > 1 else None


def read_sweep(
    configs: Sequence[str],
    distillers: Sequence[str] = (),
    teacher: Sequence[str] | None = None,
    checkpoint: Sequence[str] | None = None,
    ablate: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    vary: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    metrics: Sequence[str] | None = None,
) -> Sweep:
    """Return the sweep over configs, or the one that a sweep file describes.

    A sweep file is a Python config with ``rows``, a list of dicts, and optionally ``seeds``, ``metrics``, ``epochs``
    (the length of each training, its learning rate schedules in proportion) and ``cfg_options``. A row has ``config``
    and optionally ``name``, ``distiller``, ``teacher``, ``teacher_checkpoint``, ``cfg_options``, ``seeds``, ``epochs``,
    or ``teacher_row``, the name of the row that trains its teacher. A row without a name is called by its recipe, or
    its config, and by what differs from other such rows: ``mtkd_ssr without review``, ``mtkd_ssr srd.temperature=2``.

    Args:
        configs: Paths; each config is a row under its file's name. Or the path of one sweep file.
        distillers: Recipes, each a further row for every config; names joined by ``+`` make one.
        teacher: Config of the teacher of ``distillers``, or several.
        checkpoint: Its checkpoint, or several.
        ablate: Losses of the recipes that are left out: for each recipe that has them a further row for each one alone
            and for each pair, the recipe's other losses as they are. Two or more.
        options: Overrides of config keys; those of a distillation are left out for plain configs.
        vary: A value or several by config key: for each row that has the part that holds the key a further row for each
            value, everything else as it is.
        seeds: Instead of the sweep file's, or 0, 1, 2.
        metrics: Instead of the sweep file's, or ``accuracy/top1``.

    Raises:
        ValueError: A config or a recipe twice, no such recipe, a single loss to ablate or one that no recipe has, a key
            to vary that no row has or that its part does not take; what is not understood in a sweep file.
    """
    twice = next((name for name in distillers if list(distillers).count(name) > 1), None)
    if twice:
        raise ValueError(f"--distillers: recipe {twice} is given twice")
    given = dict(options or {})
    settings: dict[str, Any] = {}
    files = {path: load_config(path) for path in configs}
    path = next((path for path, file in files.items() if "rows" in file), None)
    if path is not None:
        if len(configs) > 1 or distillers or teacher or checkpoint or ablate:
            raise ValueError(f"{path} is a sweep file: other configs, recipes and teachers belong into its rows")
        settings = _settings(path, files[path])
        rows = _file_rows(path, files[path], given)
    else:
        wrong = next((path for path, file in files.items() if "model" not in file), None)
        if wrong is not None:
            raise ValueError(f"{wrong} is no config (there is no model) and no sweep file (there are no rows)")
        again = next((name for name in map(_stem, configs) if [*map(_stem, configs)].count(name) > 1), None)
        if again:
            raise ValueError(f"compare: two of the configs are called {again}: give each once, or rename one")
        if (teacher or checkpoint) and not distillers:
            raise ValueError("--teacher and --teacher-checkpoint go with --distillers")
        entries: list[dict[str, Any]] = []
        for path in configs:
            entries.append({"name": _stem(path), "config": path})
            taught = {"config": path, "teacher": teacher, "teacher_checkpoint": checkpoint}
            labels = {name: f"{name}_{_stem(path)}" if len(configs) > 1 else name for name in distillers}
            entries += [{**taught, "name": label, "distiller": name} for name, label in labels.items()]
        rows = _ablated(_file_rows("compare", Config({"rows": entries}), given), ablate)
    known = [loss for row in rows.values() for loss in _losses(row.config)]
    for loss in [loss for loss in ablate if loss not in known]:
        raise ValueError(f"--ablate {loss}: no recipe of --distillers has this loss{nearest(loss, known)}")
    if len(ablate) == 1:
        raise ValueError(f"--ablate {ablate[0]}: name two losses or more; each of them alone, and each pair, is a row")
    settings |= {key: tuple(value) for key, value in (("seeds", seeds), ("metrics", metrics)) if value is not None}
    return Sweep(_vary(rows, vary or {}), **settings)


def _settings(path: str, file: Config) -> dict[str, Any]:
    """Return the seeds and metrics of a sweep file, one or a list; stop at a name that is near to a key it lacks."""
    for name in file:
        missing = get_close_matches(name, [key for key in _SWEEP_KEYS if key not in file], n=1, cutoff=0.8)
        if missing and name not in _SWEEP_KEYS:
            raise ValueError(f"{path}: nothing reads {name!r}, did you mean {missing[0]!r}?")
    return {key: _values(file[key]) for key in ("seeds", "metrics") if key in file}


def _values(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, list | tuple) else (given,)


def _file_rows(path: str, file: Config, options: Mapping[str, Any]) -> dict[str, Row]:
    common = {**(file.get("cfg_options") or {}), **options}
    rows: dict[str, Row] = {}
    paths: dict[str, str] = {}
    _check_settings(path, file)
    for number, entry in enumerate(file.rows):
        where = f"{path}: rows[{number}]"
        unknown = next((key for key in entry if key not in _ROW_KEYS), None)
        if unknown or "config" not in entry:
            wrong = f"unknown key {unknown!r}{nearest(unknown, _ROW_KEYS)}" if unknown else "a row needs config=..."
            raise ValueError(f"{where}: {wrong}")
        _check_settings(where, entry)
    for number, (name, entry) in enumerate(zip(_row_names(file.rows), file.rows, strict=True)):
        if name in rows:
            raise ValueError(f"{path}: rows[{number}]: there is a row {name!r} already")
        teacher_row = entry.get("teacher_row")
        if teacher_row is not None and teacher_row not in rows:
            raise ValueError(f"{path}: rows[{number}]: no row {teacher_row!r} above it{nearest(teacher_row, rows)}")
        config = read_config(entry.config)
        epochs = entry.get("epochs", file.get("epochs"))
        if epochs is not None:
            set_epochs(config, epochs)
        own = {**common, **(entry.get("cfg_options") or {})}
        if "distiller" in entry:
            trained = (paths[teacher_row], "trained in this sweep") if teacher_row else (None, None)
            teacher, checkpoint = entry.get("teacher", trained[0]), entry.get("teacher_checkpoint", trained[1])
            config = compose(config, entry.distiller, teacher, checkpoint, own)
        else:  # a plain config takes no keys of a distillation
            left_out = () if is_distillation(config) else _DISTILLER_KEYS
            override(config, {key: value for key, value in own.items() if not key.startswith(left_out)})
        if teacher_row is not None and not is_distillation(config):
            raise ValueError(f"{path}: rows[{number}]: teacher_row is for a distillation; add distiller=...")
        seeds = None if entry.get("seeds") is None else _values(entry.seeds)
        rows[name] = Row(config, teacher_row, seeds, entry.get("distiller"), entry.config)
        paths[name] = entry.config
    return rows


def _check_settings(where: str, given: Mapping[str, Any]) -> None:
    """Refuse values of another kind in a sweep file or one of its rows."""
    epochs, options = given.get("epochs"), given.get("cfg_options")
    if epochs is not None and (not isinstance(epochs, int) or epochs < 1):
        raise ValueError(f"{where}: epochs={epochs!r}: give an integer, 1 or more")
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"{where}: cfg_options={options!r}: give a dict, such as {{'train_cfg.val_interval': 2}}")


def _row_names(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of a sweep file's rows, those that have none by their recipe or config and what differs."""
    bases = [entry.get("name") or entry.get("distiller") or _stem(entry["config"]) for entry in entries]
    traits = [
        {"config": _stem(entry["config"]), "teacher_row": entry.get("teacher_row"), **(entry.get("cfg_options") or {})}
        for entry in entries
    ]
    names = []
    for entry, base, own in zip(entries, bases, traits, strict=True):
        alike = [other for name, other in zip(bases, traits, strict=True) if name == base]
        differing = {key: value for key, value in own.items() if any(other.get(key) != value for other in alike)}
        changes = [] if "name" in entry else [_change(key, value) for key, value in differing.items()]
        names.append(" ".join([base, ", ".join(changes)]).strip())
    return names


def _change(key: str, value: Any) -> str:
    """Return a short text on a key of the config that has another value than elsewhere."""
    if key in ("config", "teacher_row"):
        return f"from {value}" if key == "teacher_row" else str(value)
    if not key.startswith("model.recipe.losses."):
        return f"{key.rpartition('.')[2]}={value}"
    loss, _, option = key.removeprefix("model.recipe.losses.").partition(".")
    return f"without {loss}" if option == "loss_weight" and value == 0 else f"{loss}.{option}={value}"


def _stem(config: str) -> str:
    return Path(config.split("::")[-1]).stem


def _ablated(rows: Mapping[str, Row], ablate: Sequence[str]) -> dict[str, Row]:
    """Return the rows, each recipe that has the losses followed by those with each of them alone and with each pair."""
    found: dict[str, Row] = {}
    for name, row in rows.items():
        found[name] = row
        if not ablate or row.recipe is None or any(loss not in _losses(row.config) for loss in ablate):
            continue
        for active in (*itertools.combinations(ablate, 1), *itertools.combinations(ablate, 2)):
            left_out = [loss for loss in ablate if loss not in active]
            if left_out:
                ablated = copy.deepcopy(row.config)
                for loss in left_out:
                    ablated.model.recipe.losses[loss].loss_weight = 0.0
                found[f"{name} without {', '.join(left_out)}"] = replace(row, config=ablated)
    return found


def _losses(config: Config) -> dict[str, Any]:
    return dict((config.model.get("recipe") or {}).get("losses") or {})


def _vary(rows: Mapping[str, Row], vary: Mapping[str, Any]) -> dict[str, Row]:
    varied: dict[str, Row] = {}
    used = set()
    for name, row in rows.items():
        varied[name] = row
        for key, given in vary.items():
            if not _has_part(row.config, key):
                continue
            used.add(key)
            for value in _values(given):
                label = f"{name} {_change(key, value)}"
                if label in varied:
                    raise ValueError(f"--vary {key}: row {label} comes twice; give each value once")
                config = copy.deepcopy(row.config)
                override(config, {key: value})
                try:
                    check_config(config, {key.partition(".")[0]} & SECTIONS.keys())
                except ValueError as error:
                    raise ValueError(f"--vary {error}") from error
                varied[label] = replace(row, config=config)
    missing = next((key for key in vary if key not in used), None)
    if missing:
        raise ValueError(f"--vary {missing}: no row of the table has the part that this key belongs to")
    return varied


def _has_part(config: Config, key: str) -> bool:
    part: Any = config
    for name in key.split(".")[:-1]:
        part = part.get(name)
        if not isinstance(part, Mapping):
            return False
    return True
