"""What of a distillation runs through ``torch.compile``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kd_mm.distillers.objective import Objective
from kd_mm.distillers.teacher import Teacher
from kd_mm.tasks import Task
from kd_mm.utils.suggest import check_options, choice, warn


@dataclass(frozen=True)
class Compilation:
    """The options ``compile=dict(...)`` of a Distiller. The student's own step is compiled by mmengine's ``compile``.

    Args:
        teacher: Compile what each teacher does in a step: network, exits, pooling.
        objective: Compile exits, connectors and losses. Not in detection, where boxes are Python lists: there one line
            in the log says so.
        step: ``"cudagraph"``: teacher, objective and the student's backbone are compiled and replayed as CUDA graphs
            (``mode="reduce-overhead"``), for inputs of fixed size. Without a CUDA device, and in detection, teacher and
            objective are compiled without graphs, and one line in the log says why.
        backend: Backend of ``torch.compile``; ``"inductor"`` needs a C++ compiler where there is no CUDA device.
        fullgraph: Stop with an error where a part cannot be compiled as one graph, instead of running it in pieces.
    """

    teacher: bool = False
    objective: bool = False
    step: str | None = None
    backend: str = "inductor"
    fullgraph: bool = False

    @classmethod
    def read(cls, config: Mapping[str, Any] | None) -> Compilation:
        """Check the options of a config.

        Raises:
            ValueError: An unknown option or value, or CUDA graphs of another backend than ``"inductor"``.
        """
        if config is not None and not isinstance(config, Mapping):
            raise ValueError(f"compile={config!r}: give dict(teacher=True, objective=True)")
        check_options(cls, config or {}, "compile")
        options = cls(**(config or {}))
        if options.step is not None:
            choice("compile: step", options.step, ("cudagraph",))
            if options.backend != "inductor":
                raise ValueError(f"compile: step='cudagraph' needs backend='inductor', not {options.backend!r}")
        return options

    @property
    def active(self) -> bool:
        """Whether anything is compiled."""
        return self.teacher or self.objective or self.step is not None

    def check_machine(self) -> None:
        """Check, before a training, that this machine can compile.

        Raises:
            ValueError: It has no C++ compiler for ``"inductor"`` on a CPU.
        """
        compilers = (os.environ.get("CXX", "g++"), "clang++", "cl")
        needed = self.active and self.backend == "inductor" and not torch.cuda.is_available()
        if needed and not any(map(shutil.which, compilers)):
            raise ValueError(
                "compile: backend='inductor' needs a C++ compiler on a CPU, and none was found (g++, clang++ or CXX): "
                "install one, give backend='aot_eager', or leave compile out"
            )

    def apply(self, student: nn.Module, teachers: Mapping[str, Teacher], objective: Objective, task: Task) -> None:
        """Let the parts that the options name compile themselves at their first call.

        Taps have to be hooked before that call, because a hook that is registered later never fires.
        """
        fixed_size = task.name != "detection"
        graphs = self.step is not None and self._can_replay(fixed_size)
        options: dict[str, Any] = {"backend": self.backend, "mode": "reduce-overhead" if graphs else None}
        # Known shapes make faster code; a batch of another size is compiled once more.
        options["dynamic"] = False if fixed_size else None

        def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
            return torch.compile(function, fullgraph=self.fullgraph, **options)

        for teacher in teachers.values() if self.teacher or self.step else ():
            teacher.compile_with(compiled)
        if fixed_size and (self.objective or self.step):
            objective.compile_with(compiled)
        elif self.objective:
            warn("compile: objective=True is left out: a detector's boxes are lists of varying length")
        if graphs:
            student.get_submodule(task.trunk(student)).compile(**options)

    def _can_replay(self, fixed_size: bool) -> bool:
        reason = "" if torch.cuda.is_available() else "torch finds no CUDA device"
        if not fixed_size:
            reason = "the images of a detector vary in size"
        if reason:
            warn(f"compile: step={self.step!r} compiles without CUDA graphs: {reason}")
        return not reason
