"""The recorder: reads tensors inside a network through forward hooks, without editing the network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from kd_mm.stages.tap import Tap, find_module
from kd_mm.utils.suggest import StepError


class StopForward(Exception):  # noqa: N818 - a signal, not an error
    """Raised by the recorder once every tap has fired, to run a network no deeper than its deepest tap."""


class _Hook:
    """A picklable, deep-copyable forward hook: a copied network records into the copied recorder, never into ours."""

    def __init__(self, recorder: Recorder, path: str) -> None:
        self.recorder = recorder
        self.path = path

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.recorder._store(self.path, args, output)


class Recorder:
    """Hooks the tapped modules once and keeps what they gave while :attr:`active`.

    Forward hooks stay installed for the life of the network: a hook that is added after the first compiled call never
    fires. Nothing is kept while inactive, so prediction costs one attribute test a module.

    Args:
        model: The network to read.
        taps: Tap texts, see :mod:`kd_mm.stages.tap`.
        stop_when_complete: End the forward pass with :class:`StopForward` after the last tap has fired.

    Raises:
        ValueError: A tap is not understood or names no callable module.
    """

    def __init__(self, model: nn.Module, taps: Iterable[str], stop_when_complete: bool = False) -> None:
        self.taps = {text: Tap.parse(text) for text in dict.fromkeys(taps)}
        self.active = False
        self.stop_when_complete = stop_when_complete
        self._expected: dict[str, int] = {}
        self._cloned: set[str] = set()
        self._records: dict[str, list[tuple[Tensor, int]]] = {}
        self._hooked: dict[str, tuple[nn.Module, Any]] = {}  # by path, the module and the handle of its hook
        self.attach(model)

    def attach(self, model: nn.Module) -> list[str]:
        """Install the hooks that are missing and return the paths that had to be hooked anew.

        Converting BN to SyncBN replaces modules and drops their hooks silently, so this is called again just before
        training; modules are compared by identity.
        """
        renewed = []
        for tap in self.taps.values():
            path, module = tap.path, find_module(model, tap)
            before, handle = self._hooked.get(path, (None, None))
            if before is module:
                continue
            if handle is not None:
                handle.remove()
                renewed.append(path)
            self._hooked[path] = module, module.register_forward_hook(_Hook(self, path))
        return renewed

    def __enter__(self) -> Recorder:
        self._records.clear()
        self.active = True
        return self

    def __exit__(self, *exc: object) -> None:
        self.active = False

    def _store(self, path: str, args: tuple[Any, ...], output: Any) -> None:
        if not self.active:
            return
        for text, tap in self.taps.items():
            if tap.path == path:
                tensor = tap.select(output if tap.read_input is None else args[tap.read_input])
                if text in self._cloned:
                    tensor = tensor.clone()
                version = -1 if torch.compiler.is_compiling() or tensor.is_inference() else tensor._version
                if text not in self._records:  # setdefault breaks the graph of torch 2.4's compiler
                    self._records[text] = []
                self._records[text].append((tensor, version))
        if self.stop_when_complete and self._expected:
            counts = {text: len(calls) for text, calls in self._records.items()}
            if counts == self._expected:
                raise StopForward

    def calibrate(self) -> None:
        """Learn from one recorded pass how often each tap fires and which tensors are changed in place after."""
        self._expected = {text: len(calls) for text, calls in self._records.items()}
        for text, calls in self._records.items():
            if any(_changed(tensor, version) for tensor, version in calls):
                self._cloned.add(text)

    def take(self) -> dict[str, Tensor]:
        """Hand out what was recorded, tap text to tensor, and forget it.

        Raises:
            StepError: A tap did not fire, fired less often than its ``#call`` asks, or its tensor was changed in
                place after it was recorded, so that a loss would see something else than the tapped output.
        """
        records, self._records = self._records, {}
        found = {}
        for text, tap in self.taps.items():
            calls = records.get(text, [])
            if not -len(calls) <= tap.call < len(calls):
                raise StepError(
                    f"tap {text!r} fired {len(calls)} times in one forward pass, call #{tap.call} was asked for; "
                    "the module is not run in this mode, or not so often"
                )
            tensor, version = calls[tap.call]
            if _changed(tensor, version) and text not in self._cloned:
                raise StepError(
                    f"the tensor at tap {text!r} was changed in place after it was recorded (an in-place activation "
                    "follows it); tap the module that makes the change instead"
                )
            found[text] = tensor
        return found


def _changed(tensor: Tensor, version: int) -> bool:
    return version >= 0 and tensor._version != version
