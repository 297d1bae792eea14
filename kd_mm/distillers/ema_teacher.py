"""A teacher that is the moving average of the student itself: Mean Teacher."""

import copy

import torch
from torch import Tensor, nn

from kd_mm.distillers.teacher import Teacher
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS
from kd_mm.utils.checkpoint import OWN_PREFIX, fill
from kd_mm.utils.suggest import missing_hook

_UPDATES = "updates"


@MODELS.register_module()
class EMATeacher(Teacher):
    """A copy of the student whose weights follow the student's as an exponential moving average.

    After the n-th optimizer step ``w' = a_n w' + (1 - a_n) w`` with ``a_n = min(momentum, 1 - 1 / (n + 1))``, so that
    it is the plain average at first (Tarvainen and Valpola, NeurIPS 2017, arXiv 1703.01780; public code
    ``CuriousAI/mean-teacher``). It starts as the student, where the public code draws weights of their own for it. Its
    exits, where a loss reads them, are the average of the student's.

    Like every teacher it stands outside the module tree and runs on the student's batch in eval mode and without
    gradient; the public code runs it in training mode on an augmentation of its own.
    :class:`kd_mm.hooks.EMATeacherHook` moves it, and keeps it in checkpoints under ``distill.teachers.<name>.``.

    A recipe brings it along: ``teachers=dict(ema=dict(type="kd_mm.EMATeacher"))``; losses name it, ``teacher="ema"``.

    Args:
        name: Its name in the recipe, in logs and in messages.
        student: The network that it follows.
        momentum: a, in [0, 1).
        warmup: Whether ``a_n`` grows to ``momentum`` as above; otherwise it is ``momentum`` from the start.
        average_buffers: Whether statistics of batch normalisation are averaged, too, as the weights that they belong
            to; otherwise they are the student's latest.

    Raises:
        ValueError: A momentum outside of [0, 1).
    """

    is_ema = True

    def __init__(
        self,
        name: str,
        student: nn.Module,
        momentum: float = 0.999,
        warmup: bool = True,
        average_buffers: bool = True,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"EMATeacher {name!r}: momentum={momentum} must be at least 0 and below 1")
        self.momentum, self.warmup, self.average_buffers = momentum, warmup, average_buffers
        self.updates = 0
        self.started = False
        self._freeze(name, copy.deepcopy(student))
        self.score_text = "follows the student"

    def observe(self, inputs: Tensor) -> Observation:
        """Run once on the student's batch; see the base class.

        Raises:
            StepError: Nothing moves it.
        """
        if not self.started:
            raise missing_hook(f"nothing moves the teacher {self.name!r}", "EMATeacherHook")
        return super().observe(inputs)

    def start(self, student: nn.Module, exits: nn.ModuleDict) -> None:
        """Become the student, with its exits, before its first step."""
        self.updates, self.started = 0, True
        self._move(student, exits, 0.0)

    def update(self, student: nn.Module, exits: nn.ModuleDict) -> None:
        """Move toward the student and its exits, after each of its steps."""
        self.updates += 1
        keep = min(self.momentum, 1 - 1 / (self.updates + 1)) if self.warmup else self.momentum
        self._move(student, exits, keep)

    @torch.no_grad()
    def _move(self, student: nn.Module, exits: nn.ModuleDict, keep: float) -> None:
        own, now = self.parts(), nn.ModuleDict({"model": student, "exits": exits}).state_dict()
        weights = {name for name, _ in own.named_parameters()}
        averages, latest = [], []
        for name, value in own.state_dict().items():
            if keep > 0 and value.is_floating_point() and (self.average_buffers or name in weights):
                averages.append(value)
                latest.append(now[name].to(value))
            else:
                value.copy_(now[name])
        if averages:
            torch._foreach_lerp_(averages, latest, 1 - keep)

    def stored(self) -> dict[str, Tensor]:
        """Return its state as a checkpoint holds it: names under ``distill.teachers.<name>.``, on the CPU."""
        state = {**self.parts().state_dict(), _UPDATES: torch.tensor(self.updates)}
        return {f"{self._prefix}{key}": value.cpu() for key, value in state.items()}

    def resume(self, state: dict[str, Tensor], origin: str) -> bool:
        """Remove its state from a checkpoint's ``state_dict`` and continue from there; return whether it holds it.

        ``origin`` is where it comes from, for messages.

        Raises:
            ValueError: It does not fit.
        """
        stored = self.pop_stored(state)
        if not stored:
            return False
        self.updates, self.started = int(stored.pop(_UPDATES)), True
        fill(self.parts(), stored, f"teacher {self.name!r}", origin)
        return True

    def pop_stored(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Remove its state from a checkpoint's ``state_dict`` and return it."""
        keys = [key for key in state if key.startswith(self._prefix)]
        return {key.removeprefix(self._prefix): state.pop(key) for key in keys}

    def parts(self) -> nn.ModuleDict:
        """Return its network and its exits as one module, ``model`` and ``exits``."""
        return nn.ModuleDict({"model": self.model, "exits": self.exits})

    @property
    def _prefix(self) -> str:
        return f"{OWN_PREFIX}teachers.{self.name}."

    def _identity(self) -> str:
        """Return what a resumed run knows it by; its weights are not those it began with."""
        return "follows the student"
