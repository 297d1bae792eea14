"""The tap grammar: one line of text that names one tensor inside a network.

    path[:in][#call][[item]]      backbone.layer3    neck[2]    head.fc:in    head.cls_convs.0#-1    pooler:in1

``path`` is a dotted module name; ``:in`` takes the module's first input instead of its output, ``:in1`` its second;
``#k`` the k-th call in one forward pass, counted from 0, negative from the end (default: the last); ``[i]`` an element
of a tuple or list.
"""

import difflib
import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

_GRAMMAR = re.compile(
    r"(?P<path>[A-Za-z_]\w*(?:\.\w+)*)(?::in(?P<input>\d*))?(?:#(?P<call>-?\d+))?(?P<items>(?:\[-?\d+\])*)"
)


@dataclass(frozen=True)
class Tap:
    """A parsed tap. ``str(tap)`` is the text that it was parsed from."""

    text: str
    path: str
    read_input: int | None = None
    call: int = -1
    items: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> "Tap":
        """Parse a tap.

        Raises:
            ValueError: ``text`` does not follow the grammar.
        """
        match = _GRAMMAR.fullmatch(text)
        if match is None:
            raise ValueError(
                f"tap {text!r} is not understood; write MODULE[:in][#call][[item]], e.g. backbone.layer3, neck[2] "
                "or head.fc:in"
            )
        call = -1 if match["call"] is None else int(match["call"])
        items = tuple(int(item) for item in re.findall(r"-?\d+", match["items"] or ""))
        read_input = None if match["input"] is None else int(match["input"] or 0)
        return cls(text, match["path"], read_input, call, items)

    def select(self, value: Any) -> Tensor:
        """Return the tensor that this tap means in what its module took or gave.

        Raises:
            TypeError: The value is not a tensor after all ``[item]`` were applied.
        """
        for item in self.items:
            value = value[item]
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            size = f" of length {len(value)}" if isinstance(value, tuple | list) else ""
            raise TypeError(
                f"tap {self.text!r} gives a {kind}{size}, not a tensor; "
                + (f"choose an element, e.g. {self.text}[-1]" if size else "tap a module that returns a tensor")
            )
        return value


def find_module(model: nn.Module, tap: Tap) -> nn.Module:
    """Return the module that a tap names.

    Raises:
        ValueError: No such module (the message names the closest ones), or a container that is never called itself.
    """
    modules = dict(model.named_modules())
    module = modules.get(tap.path)
    if module is None:
        near = difflib.get_close_matches(tap.path, modules, n=3, cutoff=0.5)
        children = ", ".join(name for name, _ in model.named_children())
        hint = f"did you mean {', '.join(near)}?" if near else f"it has {children}"
        raise ValueError(
            f"tap {tap.text!r}: {type(model).__name__} has no module {tap.path!r}; {hint} "
            "(tools/stages.py CONFIG lists them)"
        )
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        inside = next((name for name in modules if name.startswith(tap.path + ".")), tap.path)
        raise ValueError(
            f"tap {tap.text!r} names a {type(module).__name__}, which is never called itself; "
            f"tap a module inside it, e.g. {inside}"
        )
    return module


def child(module: nn.Module | None, name: str) -> Any:
    """Return a direct submodule by its name, ``None`` where there is none; for parts that not every network has."""
    return None if module is None else dict(module.named_children()).get(name)
