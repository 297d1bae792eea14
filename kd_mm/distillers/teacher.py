"""The teacher: a frozen network that stands outside the Distiller's module tree."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from kd_mm.distillers.joint_exits import JointExits
from kd_mm.distillers.precision import DTYPES, HALF, computing_in, store_weights
from kd_mm.distillers.renormalize import Renormalize
from kd_mm.distillers.requirements import Reads
from kd_mm.losses.functional import channel_deviations, wide_dtype
from kd_mm.losses.observation import Observation, StageLogits
from kd_mm.models.exits import like_parameters
from kd_mm.registry import MODELS
from kd_mm.stages.recorder import Recorder, StopForward
from kd_mm.stages.stage import Stage
from kd_mm.tasks import Batch, LogitsReader, Task
from kd_mm.utils.checkpoint import fill, read_checkpoint, student_state_dict, trained_classes
from kd_mm.utils.config import load_config, named_classes, normalizing_steps, plain_model_config
from kd_mm.utils.suggest import choice, missing_hook


class Teacher:
    """A frozen network with its checkpoint, its input normalisation and its exits.

    It is no ``nn.Module`` on purpose: the optimizer, DDP, EMA, ``state_dict`` and ``init_weights`` never see it. It is
    always in eval mode and runs under ``no_grad``. A deep copy of the Distiller shares it.

    Args:
        name: Its name in the recipe, in logs and in messages.
        config: Path of an mm config (``mmpretrain::...`` works), a config object, or a model config. Where the config
            is itself a distillation, its student is the teacher.
        checkpoint: Path or URL of its weights, which must fit completely.
        random_weights: Allow no checkpoint; for benchmarks and tests.
        input_size: Height and width in pixels that the student's batch is resized to (bilinear); default: as it is.
        dtype: Type that it is stored and runs in. ``"bfloat16"`` and ``"float16"`` mean weights of convolutions and
            linear layers, and autocast for the rest, whose norms keep their statistics in float32. Default: in mixed
            precision autocast's type, in the same way; otherwise the Distiller's.
        repeat_grey: Repeat the channel of a student of grey images for each channel of this network, which was trained
            on colour images. Default: False, an error.

    Raises:
        ValueError: No checkpoint, or one that does not fit.
    """

    #: Whether its weights are a moving average of the student's.
    is_ema: ClassVar[bool] = False
    #: The ``classes`` that the checkpoint was trained on, where it names them.
    dataset_meta: dict[str, Any]
    checkpoint: str | None = None
    input_size: tuple[int, int] | None = None
    dtype: torch.dtype | None = None
    repeat_grey = False
    #: How the pipeline that it was trained with normalises, where its config tells.
    normalizing_steps: list[str] | None = None

    def __init__(
        self,
        name: str,
        config: str | dict[str, Any],
        checkpoint: str | None = None,
        random_weights: bool = False,
        input_size: tuple[int, int] | None = None,
        dtype: str | None = None,
        repeat_grey: bool = False,
    ) -> None:
        self.checkpoint, self.input_size, self.repeat_grey = checkpoint, input_size, repeat_grey
        source: Any = load_config(config) if isinstance(config, str) else config
        self.normalizing_steps = normalizing_steps(source)
        self.config, scope = plain_model_config(source)
        with DefaultScope.overwrite_default_scope(scope):
            model: nn.Module = MODELS.build(self.config)
        stored: dict[str, Any] = {}
        if checkpoint is not None:
            stored = read_checkpoint(checkpoint)
            fill(model, student_state_dict(stored), f"teacher {name!r}", checkpoint)
        elif not random_weights:
            raise ValueError(
                f"teacher {name!r} has no checkpoint; a random network teaches noise: give checkpoint=PATH"
            )
        self.dtype = DTYPES[choice(f"teacher {name!r}: dtype", dtype, list(DTYPES))] if dtype else None
        self._freeze(name, model)
        self._convert()
        self.dataset_meta = {"classes": trained_classes(stored) or named_classes(source)}
        self.joint_exits = JointExits.of(stored)

    def _freeze(self, name: str, model: nn.Module) -> None:
        self.name, self.model = name, model.requires_grad_(False)
        model.eval()  # upstream's distilled detectors return nothing of it
        self.dataset_meta = {}
        self.joint_exits = JointExits()
        self.exits, self.exits_ready = nn.ModuleDict(), False
        self.score_text = ""
        self.identity = self._identity()
        self.renormalize: Renormalize | None = None
        self.classifier: Callable[[Tensor], Tensor] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self

    # -- before training -----------------------------------------------------------------------------------------

    def setup(
        self,
        task: Task,
        reads: Reads,
        stages: Sequence[Stage],
        exit_stages: Sequence[Stage],
        reader: LogitsReader | None,
        last: int,
        taps: Sequence[str],
        trained_exits: bool = False,
    ) -> None:
        """Fix what is read and how the network is run: no deeper than its deepest tap.

        Args:
            task: Runs the network.
            reads: What the losses read.
            stages: The matched stages whose maps can be compared.
            exit_stages: The matched stages that can have exits.
            reader: How the network's own logits are read, where a loss reads them.
            last: The stage whose stage logits are the network's own; 0 where there is none.
            taps: Further taps that losses read.
            trained_exits: Whether the objective runs its exits and trains them.
        """
        self.trained_exits = trained_exits
        self.task, self.reads, self.reader, self.last, self.taps = task, reads, reader, last, taps
        #: The stages whose maps or means are read, by number.
        self.stages = {i: stages[i - 1] for i in sorted(reads.features | reads.pooled | reads.deviations)}
        #: The stages that have an exit, by number.
        self.exit_stages = {i: exit_stages[i - 1] for i in sorted(reads.exits)}
        #: Whether the logits wait for regions, which are known once the student has run.
        self.needs_regions = reader is not None and reader.needs_regions
        recorded = [stage.tap for stage in (*self.stages.values(), *self.exit_stages.values())]
        recorded += [*(reader.taps if reader else ()), *taps]
        self.recorder = Recorder(self.model, recorded, stop_when_complete=reader is None or self.needs_regions)
        self._observe: Callable[[Teacher, Tensor], dict[str, Any]] = Teacher._fields

    def compile_with(self, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Compile :meth:`observe` by a function that returns the compiled form of another.

        Then the forward pass is not stopped at the deepest tap: what nothing reads is left out of a compiled graph.
        """
        self.recorder.stop_when_complete = False
        self._observe = compiled(Teacher._fields)

    def _identity(self) -> str:
        """Return a hash of the weights and the input normalisation, by which a resumed run knows its teacher again."""
        digest = hashlib.sha256()
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())
        digest.update(repr(self.config.get("data_preprocessor")).encode())
        return digest.hexdigest()[:16]

    def load_exits(self, weights: dict[str, Tensor], origin: str) -> None:
        """Load trained exits and freeze them.

        Raises:
            ValueError: The weights do not fit the exits.
        """
        fill(self.exits, weights, f"exits of teacher {self.name!r}", origin)
        self.exits.requires_grad_(False).eval()
        self.exits_ready = True

    def apply_(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow the Distiller to another device or dtype (called from its ``_apply``)."""
        self.model._apply(fn)
        self.exits._apply(fn)
        self._convert()

    def _convert(self) -> None:
        if self.dtype is not None and self.dtype not in HALF:
            self.model.to(self.dtype)

    def store_in(self, dtype: torch.dtype | None) -> None:
        """Store the weights in the type of autocast, unless the config names another, so that no step casts them.

        Autocast would cast the same weights to the same bits in each step. Called once everything is prepared.
        """
        self.dtype = self.dtype or dtype
        if self.dtype in HALF:
            store_weights((self.model, self.exits), self.dtype)

    def precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the context that the network and its exits run in."""
        return computing_in(self.dtype, device)

    # -- in a step -----------------------------------------------------------------------------------------------

    def preprocess(self, inputs: Tensor) -> Tensor:
        """Return the student's normalised batch ``(B, C, H, W)`` as this teacher takes it."""
        if self.renormalize is not None:
            inputs = self.renormalize(inputs)
        if self.input_size is not None and tuple(inputs.shape[-2:]) != tuple(self.input_size):
            inputs = F.interpolate(inputs, size=self.input_size, mode="bilinear", align_corners=False)
        return inputs if self.dtype is None or self.dtype in HALF else inputs.to(self.dtype)

    @torch.no_grad()
    def record(self, inputs: Tensor) -> dict[str, Tensor]:
        """Run once on the student's batch ``(B, C, H, W)``; return the recorded tensors, tap text to tensor."""
        with self.recorder, self.precision(inputs.device):
            return self._run(inputs)

    def _run(self, inputs: Tensor) -> dict[str, Tensor]:
        try:  # noqa: SIM105 - torch 2.4 compiles no `with` of contextlib
            self.task.forward(self.model, self.preprocess(inputs))
        except StopForward:
            pass
        return self.recorder.take()

    @torch.no_grad()
    def observe(self, inputs: Tensor) -> Observation:
        """Run once on the student's batch and return what the losses read, frozen exits included.

        Maps that no loss reads as maps are pooled or dropped here, before the student's activations need the memory.
        Only logits on regions that the student samples have to wait, see :meth:`finish`.

        Args:
            inputs: ``(B, C, H, W)``, the student's normalised batch.

        Raises:
            StepError: Its exits are not trained.
        """
        if not self.exits_ready:
            what = f"the exits of teacher {self.name!r} are not trained"
            raise missing_hook(what, "PrepareTeachersHook", " or load them with Teacher.load_exits")
        with self.recorder, self.precision(inputs.device):
            return Observation(**self._observe(self, inputs), classifier=self.classifier)  # type: ignore[arg-type]

    def _fields(self, inputs: Tensor) -> dict[str, Any]:
        """Run the network and its exits; return fields of an Observation. This is what is compiled."""
        records = self._run(inputs)
        maps = {i: stage.to_map(records[stage.tap]) for i, stage in self.stages.items()}
        fields = {
            "features": {i: maps[i] for i in sorted(self.reads.features)},
            "pooled": {i: maps[i].mean(dim=(2, 3), dtype=wide_dtype(maps[i])) for i in sorted(self.reads.pooled)},
            "deviations": {i: channel_deviations(maps[i]) for i in sorted(self.reads.deviations)},
            "taps": records if self.taps or self.needs_regions else {},
        }
        if self.trained_exits:
            fields["exit_maps"] = {i: stage.to_map(records[stage.tap]) for i, stage in self.exit_stages.items()}
        return fields if self.needs_regions else {**fields, **self._logits(records)}

    @torch.no_grad()
    def finish(self, observation: Observation, batch: Batch) -> Observation:
        """Add the logits that wait for the student's regions, if any do, to what :meth:`observe` returned.

        ``batch`` is the student's after its forward pass.
        """
        if not self.needs_regions:
            return observation
        with self.precision(next(iter(observation.taps.values())).device):
            return replace(observation, **self._logits(observation.taps, batch.sampled))

    def _logits(self, records: Mapping[str, Tensor], sampled: Tensor | None = None) -> dict[str, Any]:
        stage_logits: dict[int, Tensor] = {}
        for key, layer in self.exits.items():
            stage = self.exit_stages[int(key)]
            stage_logits[int(key)] = layer(like_parameters(stage.to_map(records[stage.tap]), layer))
        fields: dict[str, Any] = {}
        if self.reader is not None:
            logits = fields["logits"] = self.reader.read(records, self.model, sampled)
            if self.last:
                stage_logits[self.last] = logits
        if stage_logits and self.reads.stage_logits:
            fields["stage_logits"] = StageLogits.of(stage_logits)
        return fields

    @torch.no_grad()
    def logits(self, inputs: Tensor, records: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the teacher's own logits ``(B, K)``; used outside training steps.

        Args:
            inputs: ``(B, C, H, W)``, the student's normalised batch.
            records: Of :meth:`record` on it, where it ran already.
        """
        with self.precision(inputs.device):
            if self.reader is not None and records is not None:
                return self.reader.read(records, self.model)
            return self.task.forward(self.model, self.preprocess(inputs))

    @torch.no_grad()
    def score(self, inputs: Tensor, data_samples: Any) -> Tensor:
        """Return the task's statistics (:meth:`kd_mm.tasks.Task.score`) on a validation batch of the student's."""
        with self.precision(inputs.device):
            return self.task.score(self.model, self.preprocess(inputs), data_samples)
