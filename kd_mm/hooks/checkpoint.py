"""mmengine's checkpoint hook, made safe against a kill at any moment."""

from __future__ import annotations

import hashlib
import os.path as osp
import pickle
from inspect import signature
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process, master_only
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint, save_checkpoint

from kd_mm.engine.atomic_files import ATOMIC_BACKEND, remove_leftovers, replace_file
from kd_mm.registry import HOOKS
from kd_mm.utils.suggest import nearest

_STALE = "stale_ckpts"


class _DeferredRemoval:
    """A file backend that notes what is to be removed and removes it when told that it is safe."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.pending: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str | Path) -> None:
        self.pending.append(str(path))

    rmtree = remove

    def flush(self, keep: set[str]) -> None:
        for path in self.pending:
            if path in keep:
                continue
            if self._backend.isfile(path):
                self._backend.remove(path)
            elif self._backend.isdir(path):
                self._backend.rmtree(path)
        self.pending = []


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """Checkpoints that are on disk whole or not at all, and never fewer good ones than a moment before.

    Takes every argument of :class:`mmengine.hooks.CheckpointHook` and differs in the following:

    - checkpoints, best checkpoints, published models and ``last_checkpoint`` are written under a temporary name in the
      same folder, flushed to disk and renamed; what a killed run left is deleted when the next one starts;
    - old checkpoints are deleted after the new one and ``last_checkpoint`` are safe, so for a moment there is one file
      more than ``max_keep_ckpts`` says; a deletion that a kill prevented is made up for at the next start;
    - when the best score changes, the checkpoint that records it is written once validation is over for every hook;
    - a write that fails (full disk) stops the run with one line and leaves every earlier file as it was.

    Only local folders are written so; another ``backend_args`` is used as it is.
    """

    backend_args: dict | None
    file_backend: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        accepted = set(signature(Runner.save_checkpoint).parameters)
        for option in self.args:  # upstream hands them on, and fails when the first checkpoint is due
            if option not in accepted:
                known = [*signature(MMEngineCheckpointHook).parameters, *accepted]
                raise TypeError(f"CheckpointHook has no option {option!r}{nearest(option, known)}")
        self._validating = False
        self._due: tuple[int, dict] | None = None

    def before_train(self, runner: Runner) -> None:
        """Choose the storage and clear away what a killed run left."""
        if self.file_client_args is None and not self.backend_args:
            backend = get_file_backend(self.out_dir or runner.work_dir)
            if type(backend) is LocalBackend:
                self.backend_args = {"backend": ATOMIC_BACKEND}
        super().before_train(runner)
        self.file_backend = _DeferredRemoval(self.file_backend)
        if is_main_process():
            self._clear_leftovers(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Save the best checkpoint; the ordinary one that records it waits for :meth:`after_val`."""
        self._validating = True
        try:
            super().after_val_epoch(runner, metrics)
        finally:
            self._validating = False

    def after_val(self, runner: Runner) -> None:
        """Record a new best score, now that every hook has seen the metrics."""
        if self._due is not None:
            due, self._due = self._due, None
            self._save_checkpoint_with_step(runner, *due)
        elif isinstance(getattr(self, "file_backend", None), _DeferredRemoval):
            self._remove_old()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if self._validating:
            self._due = (step, meta)
            return
        # Storing is rank 0's work; what only the other ranks know has to be asked for before.
        runner.call_hook("collect_checkpoint_state")
        self._retire(runner, step)
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.message_hub.update_info(_STALE, list(self.file_backend.pending))
        runner.save_checkpoint(
            self.out_dir,
            filename,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            replace_file(osp.join(runner.work_dir, "last_checkpoint"), str(self.last_ckpt).encode())
            self._remove_old()

    def _retire(self, runner: Runner, step: int) -> None:
        if self.max_keep_ckpts <= 0 or (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            return
        if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
            old = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            self.file_backend.remove(self.file_backend.join_path(self.out_dir, old))
        self.keep_ckpt_ids.append(step)
        runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))

    def _remove_old(self) -> None:
        self.file_backend.flush(self._in_use() if is_main_process() else set(self.file_backend.pending))

    def _in_use(self) -> set[str]:
        paths = [self.last_ckpt, getattr(self, "best_ckpt_path", None)]
        paths += getattr(self, "best_ckpt_path_dict", {}).values()
        if self.max_keep_ckpts > 0:
            names = map(self.filename_tmpl.format, self.keep_ckpt_ids)
            paths += [self.file_backend.join_path(self.out_dir, name) for name in names]
        return {str(path) for path in paths if path is not None}

    def _clear_leftovers(self, runner: Runner) -> None:
        folders = {str(runner.work_dir)}
        if isinstance(self.file_backend._backend, LocalBackend):
            folders.add(str(self.out_dir))
        for folder in sorted(folders):
            for part in remove_leftovers(folder):
                runner.logger.info(f"Removed {part}: an unfinished file of a run that was stopped while it wrote.")
        stale = runner.message_hub.runtime_info.get(_STALE, [])
        # Paths of another folder belong to the run whose checkpoint was taken over.
        self.file_backend.pending = [path for path in stale if osp.dirname(path) == str(self.out_dir)]
        self._remove_old()

    @master_only
    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        checkpoint = _load_checkpoint(ckpt_path)
        published = {key: value for key, value in checkpoint.items() if key in self.published_keys}
        digest = hashlib.sha256(pickle.dumps(published)).hexdigest()[:8]
        path = f"{osp.splitext(ckpt_path)[0]}-{digest}.pth"
        save_checkpoint(published, path, backend_args=self.backend_args)
        left_out = sorted(set(checkpoint) - set(published))
        runner.logger.info(f"Published {ckpt_path} as {path}, without {left_out} (see published_keys).")
