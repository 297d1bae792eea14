"""The teacher: a frozen network that stands outside the Distiller's module tree."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from kd_mm.distillers.renormalize import Renormalize
from kd_mm.registry import MODELS
from kd_mm.stages.folding import agree, fold_norms
from kd_mm.stages.memory_format import runs_faster_last
from kd_mm.stages.recorder import Recorder, StopForward
from kd_mm.stages.tap import find_module
from kd_mm.utils.checkpoint import distill_state_dict, fill, read_checkpoint, student_state_dict
from kd_mm.utils.config import load_config as load_config


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
        dtype: Type its weights are stored in, e.g. ``"bfloat16"``; default: as the Distiller's.
        compile: Run it through ``torch.compile``.
        fold: Let its convolutions do the work of its frozen batch norms where that shows the same at every tap
            (see :func:`kd_mm.stages.folding.fold_norms`); its weights and buffers stay as they are. Not with
            ``compile``, which fuses by itself.
        channels_last: Keep its weights and feed its batch in the ``channels_last`` memory format. ``None``: where that
            runs faster, on the CPU and in half precision on GPUs, if it shows the same at every tap, and not with
            ``compile``; losses then get its maps in the plain format all the same.

    Raises:
        ValueError: No checkpoint, or one that does not fit.
    """

    #: Whether its weights follow the student's during training.
    follows: ClassVar[bool] = False
    checkpoint: str | None = None
    input_size: tuple[int, int] | None = None
    dtype: torch.dtype | None = None
    compile = False
    folds = False
    channels_last: bool | None = False

    def __init__(
        self,
        name: str,
        config: str | dict[str, Any],
        checkpoint: str | None = None,
        random_weights: bool = False,
        input_size: tuple[int, int] | None = None,
        dtype: str | None = None,
        compile: bool = False,  # noqa: A002 - torch's own word
        fold: bool = True,
        channels_last: bool | None = None,
    ) -> None:
        self.checkpoint, self.input_size, self.compile = checkpoint, input_size, compile
        self.folds, self.channels_last = fold and not compile, channels_last
        model_config, scope = teacher_model_config(config)
        self.config = model_config
        with DefaultScope.overwrite_default_scope(scope):
            model: nn.Module = MODELS.build(model_config)
        stored: dict[str, Any] = {}
        if checkpoint is not None:
            stored = read_checkpoint(checkpoint)
            fill(model, student_state_dict(stored), f"teacher {name!r}", checkpoint)
        elif not random_weights:
            raise ValueError(
                f"teacher {name!r} has no checkpoint; a random network teaches noise: give checkpoint=PATH"
            )
        self.dtype = getattr(torch, dtype) if dtype else None
        if self.dtype:
            model.to(self.dtype)
        self._stand(name, model, stored)

    def _stand(self, name: str, model: nn.Module, stored: dict[str, Any]) -> None:
        """Freeze the network and be ready to be read; ``stored`` is its checkpoint."""
        self.name, self.model = name, model.requires_grad_(False).eval()
        self._stored = stored
        self.dataset_meta: dict[str, Any] = (stored.get("meta") or {}).get("dataset_meta") or {}
        self._suits_last = self._is_last = False
        self._arrange()
        self.exits = nn.ModuleDict()
        self.exits_ready = False
        self.score_text = ""
        self.identity = self._identity()
        self.renormalize: Renormalize | None = None
        self.recorder: Recorder | None = None
        self._whole: Callable[[nn.Module, Tensor], Any] | None = None
        self._run: Callable[[nn.Module, Tensor], Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self

    def observe_at(self, taps: Iterable[str], forward: Callable[[nn.Module, Tensor], Any], shallow: bool) -> None:
        """Fix what is read and how the network is run.

        Args:
            taps: Tap texts.
            forward: Runs the network on a batch.
            shallow: Stop after the deepest tap where that is not the network's end.
        """
        if self.recorder is not None:
            self.recorder.detach()
        self.recorder = Recorder(self.model, taps, stop_when_complete=shallow and not self.compile)
        self._whole = forward
        self._run = torch.compile(forward) if self.compile else forward

    def see(self, inputs: Tensor) -> Tensor:
        """Return the teacher's view of the student's normalised batch ``(B, 3, H, W)``."""
        self._arrange()
        if self.renormalize is not None:
            inputs = self.renormalize(inputs)
        if self.input_size is not None and tuple(inputs.shape[-2:]) != tuple(self.input_size):
            inputs = F.interpolate(inputs, size=self.input_size, mode="bilinear", align_corners=False)
        if self._is_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs.to(self.dtype) if self.dtype else inputs

    def plain(self, shown: Tensor) -> Tensor:
        """Return what a tap showed in the memory format that losses get: the plain one, unless the config says else."""
        return shown.contiguous() if self._is_last and self.channels_last is None else shown

    def _arrange(self) -> None:
        """Put the weights in the memory format that suits the device and the precision that is in force."""
        wanted = self.channels_last
        if wanted is None:
            weight = next(self.model.parameters(), None)
            wanted = self._suits_last and weight is not None and runs_faster_last(weight.device.type, self.dtype)
        if wanted != self._is_last:
            self.model.to(memory_format=torch.channels_last if wanted else torch.contiguous_format)
            self._is_last = wanted

    @torch.no_grad()
    def settle(self, inputs: Tensor) -> None:
        """Settle how the network runs fastest: in which memory format, and with folded batch norms or without.

        Each is left out where the answer or a tap shows something else than before. Both suit nearly every network, so
        they are tried together first.

        Args:
            inputs: The student's view of any batch ``(B, 3, H, W)``; the network runs on it a few times.
        """
        assert self.recorder is not None
        keep = [find_module(self.model, tap) for tap in self.recorder.taps.values()]
        formats = self.channels_last is None and not self.compile and inputs.is_cpu
        expected: list[Tensor] = []

        def look() -> None:
            expected[:] = self._show(self.see(inputs))

        for last, fold in ((formats, self.folds), (formats, False), (False, self.folds)):
            if not (last or fold):
                continue
            self._suits_last = False
            self._arrange()
            undo = fold_norms(self.model, look, keep) if fold else None
            if not fold:
                look()
            self._suits_last = last
            self._arrange()
            if self._shows(expected, inputs):
                return
            if undo is not None:
                undo()
        self._suits_last = False
        self._arrange()

    def _shows(self, expected: list[Tensor], inputs: Tensor) -> bool:
        try:
            return agree(expected, self._show(self.see(inputs)))
        except RuntimeError:  # a view that the format does not allow; a tap on a tensor that is changed in place now
            return False

    def _show(self, views: Tensor) -> list[Tensor]:
        """Return all that one whole run shows: the taps, then every tensor of the output."""
        assert self.recorder is not None
        assert self._whole is not None
        stops, self.recorder.stop_when_complete = self.recorder.stop_when_complete, False
        try:
            with self.recorder:
                output = self._whole(self.model, views)
        finally:
            self.recorder.stop_when_complete = stops
        return [*self.recorder.take().values(), *_tensors(output)]

    @torch.no_grad()
    def observe(self, inputs: Tensor) -> dict[str, Tensor]:
        """Run once on the student's batch and return what the taps showed, tap text to tensor."""
        assert self.recorder is not None
        assert self._run is not None
        views = self.see(inputs)
        with self.recorder, contextlib.suppress(StopForward):  # outside of the graph: torch 2.4 compiles no such `with`
            self._run(self.model, views)
        return self.recorder.take()

    @torch.no_grad()
    def answer(self, inputs: Tensor, task: Any) -> Tensor:
        """Return the teacher's own logits ``(B, K)`` on the student's batch; used outside training steps."""
        return task.forward(self.model, self.see(inputs))

    @torch.no_grad()
    def score(self, inputs: Tensor, data_samples: Any, task: Any) -> tuple[int, int]:
        """Return how many answers on a validation batch, in the student's view, are right, and how many there are."""
        return task.score(self.model, self.see(inputs), data_samples)

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

    def stored_exits(self) -> dict[str, Tensor]:
        """Return the exits that the teacher's own training run left in its checkpoint (joint training)."""
        return distill_state_dict(self._stored, "exits.")

    def forget_file(self) -> None:
        """Release what was read from the checkpoint file."""
        self._stored = {}

    def apply_(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Follow the Distiller to another device or dtype (called from its ``_apply``)."""
        self.model._apply(fn)
        self.exits._apply(fn)
        if self.dtype:
            self.model.to(self.dtype)
        self._arrange()


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    inner = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else ()
    return [tensor for value in inner for tensor in _tensors(value)]


def teacher_model_config(config: str | dict[str, Any]) -> tuple[ConfigDict, str | None]:
    """Return the plain model config and the default scope of a teacher's config.

    Raises:
        ValueError: The config has no model.
    """
    whole: Any = load_config(config) if isinstance(config, str) else config
    scope = whole.get("default_scope")
    model = whole if "type" in whole else whole.get("model")
    if model is None:
        raise ValueError("the teacher's config has no 'model'; give an mm config file or a model dict")
    model = ConfigDict(copy.deepcopy(model))
    if str(model.get("type", "")).endswith("Distiller"):
        model = ConfigDict(model["student"])
    if "data_preprocessor" not in model and whole.get("data_preprocessor"):
        model["data_preprocessor"] = whole["data_preprocessor"]
    return model, scope
