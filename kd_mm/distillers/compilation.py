"""What of a distillation runs through ``torch.compile``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from kd_mm.distillers.objective import Objective
from kd_mm.distillers.teacher import Teacher
from kd_mm.losses.base import choice
from kd_mm.tasks import Task
from kd_mm.utils.suggest import check_options


@dataclass(frozen=True)
class Compilation:
    """The options ``compile=dict(...)`` of a Distiller.

    Args:
        teacher: Compile what each teacher does in a step: network, exits, pooling.
        objective: Compile exits, connectors and losses; not in detection, whose boxes are Python lists.
        step: ``"cudagraph"``: teacher, objective and the student's backbone are compiled and replayed as CUDA graphs
            (``mode="reduce-overhead"``), for inputs of fixed size. Without a CUDA device, and in detection, it compiles
            what can be, and logs one line that says why there are no CUDA graphs.
        backend: Backend of ``torch.compile``.
        fullgraph: Stop with an error where a part cannot be compiled as one graph, instead of running it in pieces.

    Raises:
        ValueError: Options that do not go together.
    """

    teacher: bool = False
    objective: bool = False
    step: str | None = None
    backend: str = "inductor"
    fullgraph: bool = False

    @classmethod
    def read(cls, config: Mapping[str, Any] | None, task: Task) -> Compilation:
        """Check the options of a config against each other and the task.

        Raises:
            ValueError: An unknown option or value, a detector's objective, CUDA graphs of another backend.
        """
        if config is not None and not isinstance(config, Mapping):
            raise ValueError(f"compile={config!r}: give dict(teacher=True, objective=True)")
        check_options(cls, config or {}, "compile")
        options = cls(**(config or {}))
        if options.step is not None:
            choice("compile: step", options.step, ("cudagraph",))
            if options.backend != "inductor":
                raise ValueError(f"compile: step='cudagraph' needs backend='inductor', not {options.backend!r}")
        if options.objective and task.name == "detection":
            raise ValueError(
                "compile: the objective of a detector works on lists of boxes and is not compiled; drop objective=True "
                "(teacher=True works)"
            )
        return options

    def apply(self, student: nn.Module, teachers: Mapping[str, Teacher], objective: Objective, task: Task) -> None:
        """Compile what the options name; compiling itself happens at the first call.

        Taps have to be hooked before that, because a hook that is registered later never fires.
        """
        fixed = task.name != "detection"
        graphs = self.step == "cudagraph" and self._can_replay(fixed)
        options: dict[str, Any] = {"backend": self.backend, "mode": "reduce-overhead" if graphs else None}
        # A batch of another size is compiled by itself: shapes that are known make faster code.
        options["dynamic"] = False if fixed else None

        def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
            return torch.compile(function, fullgraph=self.fullgraph, **options)

        for teacher in teachers.values():
            if self.teacher or self.step or teacher.compile:
                teacher.compile_with(compiled)
        if self.objective or (self.step and fixed):
            objective.compile_with(compiled)
        if graphs:
            student.get_submodule(task.trunk(student)).compile(**options)

    def _can_replay(self, fixed: bool) -> bool:
        reason = "" if torch.cuda.is_available() else "torch finds no CUDA device"
        if not fixed:
            reason = "the inputs of a detector vary in size"
        if reason:
            line = f"compile: step='cudagraph' falls back to plain compilation: {reason}"
            print_log(line, logger="current", level=logging.WARNING)
        return not reason
