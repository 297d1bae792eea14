"""What every preparation of a teacher has in common, and SGD training that continues exactly after a kill."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from mmengine.dist import all_reduce, broadcast, get_rank, is_main_process
from torch import Tensor, nn

from kd_mm.distillers import Distiller, Teacher
from kd_mm.losses.functional import full_precision
from kd_mm.preparation.data import TrainingData
from kd_mm.stages.stage import Stage
from kd_mm.utils.atomic_files import save_atomically
from kd_mm.utils.checkpoint import read_checkpoint
from kd_mm.utils.contexts import isolated_rng
from kd_mm.utils.suggest import check_names


class TeacherPreparation:
    """Something that is computed once on one frozen teacher before training.

    A subclass is registered in :data:`kd_mm.registry.PREPARATIONS`; a loss asks for it with
    :meth:`kd_mm.losses.Loss.preparation`. :class:`kd_mm.preparation.PrepareTeachersHook` stores what :meth:`run`
    returns and passes it to :meth:`load`.

    Args:
        distiller: The model that is trained afterwards.
        teacher: One of its teachers.
        source: Name of the options in a config, for messages.
        options: Options from the config, on top of :attr:`defaults`.
        **settings: For :meth:`setup`; what follows from the networks.

    Raises:
        ValueError: An unknown option.
    """

    #: Names its files, log lines and random state.
    kind: ClassVar[str]
    #: What to do about scores at chance, for a warning.
    remedy: ClassVar[str] = ""
    defaults: ClassVar[Mapping[str, Any]]

    def __init__(
        self, distiller: Distiller, teacher: Teacher, source: str, options: Mapping[str, Any], **settings: Any
    ) -> None:
        check_names(self.defaults, options, source)
        self.distiller, self.teacher, self.source = distiller, teacher, source
        self.options: dict[str, Any] = {**self.defaults, **options}
        self.setup(**settings)

    def setup(self, *args: Any, **settings: Any) -> None:
        """Check the options, and build what is trained; called once by the constructor. The default has nothing.

        Raises:
            ValueError: A value out of its range.
        """

    def fingerprint(self, data: TrainingData) -> list[Any]:
        """Return what the result depends on, beside the teacher and the training data."""
        raise NotImplementedError

    def run(self, data: TrainingData, partial: Path) -> dict[str, Any]:
        """Compute the result; called on all ranks, under a random state of its own.

        Args:
            data: The training data.
            partial: File for an unfinished result.

        Returns:
            ``state_dict`` (what :meth:`load` takes, readable by ``torch.load(weights_only=True)``), and for the log
            ``scores`` (fractions by name) and ``metric`` (what they are); where there is such a thing ``chance``, the
            score of guessing, and ``at_chance``, the names of the scores that are not above it.
        """
        raise NotImplementedError

    def untrained(self) -> Any:
        """Return a state of the right form at no cost, for measuring the cost of a training."""
        raise NotImplementedError

    def load(self, state: Any, origin: str) -> Any:
        """Return the result in the form that the loss takes, by default as it is; ``origin`` is for messages."""
        return state

    def judge(self, result: Mapping[str, Any]) -> None:
        """Tell losses what follows from the scores of a result. The default tells nothing."""

    def summarize(self, name: str, loss: Any, results: Mapping[str, Any], data: TrainingData) -> None:
        """Log what the loss ``name`` makes of the results of all its teachers; the default does nothing."""

    def stage_maps(self, records: Mapping[str, Tensor], stages: Mapping[int, Stage]) -> dict[int, Tensor]:
        """Return the feature maps ``(B, C, H, W)`` of stages of the teacher by number, at least float32."""
        return {i: full_precision(stage.to_map(records[stage.tap])) for i, stage in stages.items()}


#: Defaults of an :class:`EpochTraining`, but for its length and rate.
SCHEDULE = {"epochs": None, "momentum": 0.9, "weight_decay": 5e-4, "gamma": 0.1}


class EpochTraining(TeacherPreparation):
    """Trains modules on what a frozen teacher computes, by SGD or AdamW with step decay on the training data.

    Options: ``fraction`` (its length in epochs over that of the run), with ``min_epochs`` (but no shorter than this,
    or than the run where that is shorter still), or ``epochs`` (its length as a number), ``milestones`` (fractions of
    this length), ``gamma``, ``lr``, ``momentum``, ``weight_decay``.

    After each epoch the state is written to the partial file. Each epoch has a random state of its own, so that a
    killed training continues from there with the same result.

    Attributes:
        module: What is trained; set by the subclass.
        kept: What a subclass stores along with the partial state.
    """

    module: nn.Module
    kept: dict[str, Any]

    def fingerprint(self, data: TrainingData) -> list[Any]:
        options = {
            key: value
            for key, value in self.options.items()
            if key not in ("fraction", "min_epochs", "mode", "checkpoint")
        }
        return [options, *data.epochs(self.options, self.source)]

    def untrained(self) -> dict[str, Tensor]:
        """Return the module as it was initialised."""
        return self.module.state_dict()

    def train_epoch(self, epoch: int, loader: Any, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """Train for one epoch; return scalars for the log."""
        raise NotImplementedError

    def after_epoch(self, epoch: int) -> None:
        """Look at the module after an epoch; the default does nothing."""

    def train(self, data: TrainingData, partial: Path, chosen: Sequence[int] | None = None) -> dict[str, float]:
        """Train :attr:`module` to the end, on all samples or those with the indices ``chosen``.

        Returns:
            The scalars of the last epoch.
        """
        options, name, logger = self.options, f"{self.kind} of teacher {self.teacher.name!r}", data.runner.logger
        epochs, milestones = data.epochs(options, self.source)
        momentum, decay = options["momentum"], options["weight_decay"]
        if options["lr"] <= 0 or not 0 <= momentum < 1:
            raise ValueError(
                f"{self.source}: lr={options['lr']} must be above 0, momentum={momentum} from 0 to below 1"
            )
        if options.get("optimizer") == "AdamW":
            optimizer: Any = torch.optim.AdamW(self.module.parameters(), options["lr"], weight_decay=decay)
        else:
            optimizer = torch.optim.SGD(self.module.parameters(), options["lr"], momentum, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, options["gamma"])
        start, scalars, self.kept = 0, dict[str, float](), {}
        logger.info(f"training the {name} for {epochs} epochs")
        if partial.is_file():
            state = read_checkpoint(str(partial))
            self.module.load_state_dict(state["module"])
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            start, scalars, self.kept = state["epoch"], state["scalars"], state["kept"]
            logger.info(f"{name}: continued after epoch {start} ({partial})")
        loader = data.loader(chosen=chosen)
        for epoch in range(start, epochs):
            with isolated_rng(f"epoch {epoch} of rank {get_rank()}"):
                if hasattr(loader.sampler, "set_epoch"):
                    loader.sampler.set_epoch(epoch)
                scalars = self.train_epoch(epoch, loader, optimizer)
            schedule.step()
            for buffer in self.module.buffers():
                broadcast(buffer)
            self.after_epoch(epoch)
            text = ", ".join(f"{key} {value:.4f}" for key, value in scalars.items())
            logger.info(f"{name}: epoch {epoch + 1} of {epochs}, {text}")
            if is_main_process():
                state = {"module": self.module.state_dict(), "optimizer": optimizer.state_dict(), "kept": self.kept}
                state |= {"schedule": schedule.state_dict(), "epoch": epoch + 1, "scalars": scalars}
                save_atomically(state, partial)
        return scalars

    def step(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Update the parameters that ``loss`` depends on; gradients are the mean over the processes.

        Raises:
            ValueError: The loss is not finite.
        """
        if not torch.isfinite(loss):
            raise ValueError(
                f"training the {self.kind} of teacher {self.teacher.name!r}: the loss is not finite; lower "
                f"{self.source.rpartition(' ')[2]}.lr"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for parameter in self.module.parameters():
            if parameter.grad is not None:
                all_reduce(parameter.grad, "mean")
        optimizer.step()
