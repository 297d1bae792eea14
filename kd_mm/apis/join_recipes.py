"""Several recipes made one: the losses of all, exits and connectors shared."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

#: What a recipe means that leaves a key out, where leaving it out means something.
_MEANT = {"student_loss_weight": 1.0}


def join_recipes(recipes: Mapping[str, Mapping[str, Any]], settled: Collection[str] = ()) -> dict[str, Any]:
    """Return one recipe that has the losses and options of several.

    A recipe whose ``joined`` names keys takes part with these alone (``student_friendly``: its transform). Exits,
    connectors and the teacher's exits are shared, so they have to agree where several recipes name them; a loss that
    two recipes have alike is there once.

    Args:
        recipes: By name.
        settled: Dotted keys of the joined recipe that will be overridden, so that it does not matter who is right; a
            key settles what is inside, too.

    Raises:
        ValueError: Two recipes disagree in an option or have different losses of one name.
    """
    joined: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for name, recipe in recipes.items():
        keys = recipe.get("joined")
        chosen = {key: value for key, value in {**_MEANT, **recipe}.items() if key != "joined"}
        if keys is not None:
            chosen = {key: recipe[key] for key in keys}
        _merge(joined, chosen, name, "", owners, settled)
    return joined


def join_hooks(hooks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the hooks of several recipes as one mapping.

    Args:
        hooks: The hooks of each recipe, by its name.

    Raises:
        ValueError: Two recipes disagree in an option of a hook.
    """
    joined: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for name, mine in hooks.items():
        _merge(joined, mine, name, "", owners, ())
    return joined


def _merge(
    into: dict[str, Any],
    given: Mapping[str, Any],
    recipe: str,
    path: str,
    owners: dict[str, str],
    settled: Collection[str],
) -> None:
    """Merge ``given`` at ``path``, the part's type first, since its other options follow from it."""
    for key in sorted(given, key=lambda key: key != "type"):
        where, value = f"{path}{key}", given[key]
        if key not in into:
            into[key] = _copied(value)
            owners.update(dict.fromkeys(_paths(value, where), recipe))
        elif isinstance(value, Mapping) and isinstance(into[key], dict) and not _is_loss(where):
            _merge(into[key], value, recipe, f"{where}.", owners, settled)
        elif into[key] != value and not _is_settled(where, settled):
            raise ValueError(_clash(where, into[key], value, owners.get(where, "another recipe"), recipe))


def _is_loss(path: str) -> bool:
    return path.startswith("losses.") and path.count(".") == 1


def _is_settled(path: str, settled: Collection[str]) -> bool:
    return any(path == key or path.startswith(f"{key}.") for key in settled)


def _clash(path: str, first: Any, second: Any, first_recipe: str, second_recipe: str) -> str:
    start = f"the recipes {first_recipe} and {second_recipe} cannot be joined: "
    if _is_loss(path):
        differ = sorted(key for key in {*first, *second} if first.get(key) != second.get(key))
        return (
            f"{start}both have a loss {path.partition('.')[2]!r}, with another {differ[0]} "
            f"({first.get(differ[0])!r} and {second.get(differ[0])!r}); write a recipe of your own with two names"
        )
    return (
        f"{start}{path} is {first!r} in one and {second!r} in the other; choose with "
        f"--cfg-options model.recipe.{path}=VALUE"
    )


def _copied(value: Any) -> Any:
    return {key: _copied(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def _paths(value: Any, path: str) -> list[str]:
    inner = value.items() if isinstance(value, Mapping) else ()
    return [path, *(found for key, part in inner for found in _paths(part, f"{path}.{key}"))]
