"""Values in a config: lists for dicts, words for numbers, fractions of what is counted, values below the least."""

import contextlib
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any

#: Counts that may be 0, though their default is a number above it.
_MAY_BE_ZERO = ("patience",)
#: An annotation of dicts alone.
_MAPPING = re.compile(r"(collections\.abc\.)?Mapping\[[^|]*\]( \| None)?")


def wrong_value(
    component: Callable[..., Any], option: str, value: Any, numbers: bool, counts: bool, fractions: bool
) -> str:
    """Return what is wrong with the value of an option by the signature of what is built with it, empty if nothing.

    Args:
        component: What is built.
        option: Name of the option.
        value: Its value.
        numbers: An option whose default is a number takes numbers alone, as one with such an annotation does, and
            none below the least: counts begin at 1 where their default does or where they have none; an option whose
            default is not negative is not negative.
        counts: What is annotated as an integer, or as a list of such, takes no fractions.
        fractions: Epochs are counted in fractions all the same.
    """
    parameter = _parameter(component, option)
    if parameter is None:
        return ""
    # Components of others may take lists, dicts and None for a number, and numbers below the least.
    own = component.__module__.startswith("kd_mm.")
    if own and value is not None and not isinstance(value, Mapping) and _MAPPING.fullmatch(str(parameter.annotation)):
        example = f" such as {dict(parameter.default)}" if isinstance(parameter.default, Mapping) else ""
        return f"{value!r} is no dict{example}"
    listed = numbers and isinstance(value, list | tuple) and _is_number(parameter.default)  # such as lr=0,1
    if value is None or isinstance(value, str) or ((own or listed) and not isinstance(value, int | float)):
        return _wrong_type(parameter, value, numbers)
    return _wrong_number(parameter, value, numbers or own, fractions) if counts or own else ""


def _wrong_type(parameter: inspect.Parameter, value: Any, numbers: bool) -> str:
    """Return what is wrong with a value that is no number."""
    several = typing.get_args(parameter.annotation) or "|" in str(parameter.annotation)  # None, or other types
    names = () if several else _names(parameter.annotation)
    number = names in (("int",), ("float",))
    if value is None:
        number = number and numbers and parameter.default is not None
    elif numbers and _is_number(parameter.default):
        number = True
    if number:
        return f"{value!r} is no number"
    flag = names == ("bool",) and isinstance(value, str) and not isinstance(parameter.default, str)
    return f"{value!r} is neither True nor False" if flag else ""


def _wrong_number(parameter: inspect.Parameter, value: Any, numbers: bool, fractions: bool) -> str:
    """Return what is wrong with a number, or with those of a list."""
    *outer, inner = _names(parameter.annotation) or ("",)
    integer, listed = inner == "int" and not fractions, isinstance(value, list | tuple)
    if outer and not listed:
        return f"{value!r} is no list: write [{value}]"
    for item in value if listed else [value]:
        if listed and isinstance(item, str) and item.replace(".", "", 1).isdigit():
            return f"{item!r} in it is no number"
        if not _is_number(item):
            continue
        if integer and item % 1:
            return f"{item} is no whole number"
        if numbers and item < (least := _least(parameter, integer)):
            return f"{item} is less than {least}"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _least(parameter: inspect.Parameter, counted: bool) -> float:
    default = parameter.default
    needed = default is parameter.empty
    if parameter.name.endswith("seed") or not (needed or (_is_number(default) and default >= 0)):
        return float("-inf")
    return int(counted and (needed or default > 0) and parameter.name not in _MAY_BE_ZERO)


def _names(annotation: Any) -> Sequence[str]:
    """Return the names of an annotation without None: ``("int",)``, for a list of such ``("list", "int")``; nothing
    where there are several."""
    if isinstance(annotation, str):
        word = annotation.removesuffix(" | None")
        return (word,) if word.isidentifier() else ()
    if inspect.isclass(annotation) and not typing.get_args(annotation):
        return () if annotation is inspect.Parameter.empty else (annotation.__name__,)
    kinds = [kind for kind in typing.get_args(annotation) if kind is not NoneType]
    if len(kinds) != 1 or kinds[0] not in (int, float, bool):
        return ()
    outer = typing.get_origin(annotation)
    listed = inspect.isclass(outer) and issubclass(outer, Sequence)
    return ("list", kinds[0].__name__) if listed else (kinds[0].__name__,)


def _parameter(component: Callable[..., Any], option: str) -> inspect.Parameter | None:
    """Return the parameter of a component, or of the first of its base classes that has it."""
    for part in inspect.getmro(component) if inspect.isclass(component) else (component,):
        with contextlib.suppress(ValueError, TypeError):  # a builtin
            parameter = inspect.signature(part).parameters.get(option)
            if parameter is not None:
                return parameter
    return None
