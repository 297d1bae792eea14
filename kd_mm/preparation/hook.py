"""Prepares frozen teachers before training: each preparation once, stored, and shared between runs."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from mmengine.config import Config
from mmengine.dist import barrier, broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from kd_mm.distillers import Distiller, find_distiller
from kd_mm.preparation.base import TeacherPreparation
from kd_mm.preparation.data import TrainingData
from kd_mm.preparation.exits import ExitTraining
from kd_mm.registry import HOOKS, PREPARATIONS
from kd_mm.utils.atomic_files import save_atomically
from kd_mm.utils.checkpoint import read_checkpoint, student_state_dict
from kd_mm.utils.contexts import isolated_rng
from kd_mm.utils.suggest import join_first, warn

#: Number of training samples where there are no training data, as many as CIFAR has.
NUM_SAMPLES = 50_000


@HOOKS.register_module()
class PrepareTeachersHook(Hook):
    """Computes what exits and losses need of frozen teachers before training: exits, codes, probes, relations.

    The teachers' exits are trained as the recipe's ``teacher_exits`` says, those that came with a teacher's checkpoint
    are measured on 512 images; a loss asks by :meth:`kd_mm.losses.Loss.preparation`. Without either nothing is done.

    Each result is stored as ``teacher_<kind>_<teacher>_<hash>.pth``. The hash covers the teacher's weights and input,
    the training data and the options: a later run with the same finds it, any other computes its own. Of the data it
    covers paths and annotations: where images were replaced under their old names a warning says so. A file lock has
    runs that share the folder wait for each other instead of computing a result twice. Everything happens under random
    states of its own; the training that follows is the same whether the result was found or computed. Unfinished
    training is stored after each epoch (``.partial.pth``), and a killed preparation ends with the same result.

    Args:
        cache_dir: Folder of the results, which other runs may share; the work dir by default.
    """

    priority = "NORMAL"

    def __init__(self, cache_dir: str | None = None) -> None:
        self.cache_dir = cache_dir

    def before_train(self, runner: Runner) -> None:
        """Load or compute everything; then store the teachers in the type that the training steps compute in.

        Raises:
            ValueError: A wrong option, or a file that does not fit.
        """
        distiller = find_distiller(runner)
        data, folder = TrainingData(runner, distiller), Path(self.cache_dir or runner.work_dir)
        for training in exit_trainings(distiller, ready=True):
            with isolated_rng("exits of the teachers"):
                result = training.measure(data, images=512)
            log_scores(training, result, data)
            training.judge(result)
        for training in exit_trainings(distiller):
            given = training.options["checkpoint"]
            if given:
                training.load(student_state_dict(read_checkpoint(given)), given)
            else:
                load_or_run(training, data, folder)
        for name, preparations in loss_preparations(distiller).items():
            loss = distiller.losses[name]
            results = {teacher: load_or_run(each, data, folder) for teacher, each in preparations.items()}
            loss.load_preparation(results)
            if is_main_process():
                next(iter(preparations.values())).summarize(name, loss, results, data)
        distiller.store_teachers(runner.optim_wrapper)


def exit_trainings(distiller: Distiller, ready: bool = False) -> list[ExitTraining]:
    """Return the training of the exits of every teacher whose exits are not trained, or are trained already."""
    options = distiller.recipe.teacher_exits
    return [
        ExitTraining(distiller, teacher, "recipe: teacher_exits", options)
        for teacher in distiller.teachers.values()
        if teacher.exits_ready == ready and not teacher.is_ema and len(teacher.exits)
    ]


def loss_preparations(distiller: Distiller) -> dict[str, dict[str, TeacherPreparation]]:
    """Return what the losses ask for, by loss and teacher."""
    found: dict[str, dict[str, TeacherPreparation]] = {}
    for name, loss in distiller.losses.items():
        asked = loss.preparation()
        if asked is not None:
            kind: Any = PREPARATIONS.get(asked.type)
            source = f"{type(loss).__name__}: {asked.option}"
            found[name] = {
                teacher: kind(distiller, distiller.teachers[teacher], source, asked.options, **asked.settings)
                for teacher in loss.teacher_names
            }
    return found


def skip_preparation(distiller: Distiller) -> None:
    """Let every loss run at the cost of a training without preparing: exits and codes untrained, equal probe scores."""
    for training in exit_trainings(distiller):
        training.load(training.untrained(), "initialisation")
    for loss in distiller.losses.values():
        loss.expect_samples(NUM_SAMPLES)
    for name, preparations in loss_preparations(distiller).items():
        results = {teacher: each.load(each.untrained(), "initialisation") for teacher, each in preparations.items()}
        distiller.losses[name].load_preparation(results)


def share_preparations(config: Config, folder: Path) -> None:
    """Have a run's preparations stored in a folder that other runs share, unless its config names one.

    Runs with the same folder may be started side by side: a lock makes the second wait for what the first prepares.
    """
    for hook in (config.get("default_hooks") or {}).values():
        if hook and HOOKS.get(str(hook.get("type"))) is PrepareTeachersHook:
            hook.setdefault("cache_dir", str(folder))


def load_or_run(preparation: TeacherPreparation, data: TrainingData, folder: Path) -> Any:
    """Return the result of a preparation, from its file where there is one."""
    teacher, kind = preparation.teacher, preparation.kind
    parts = [teacher.identity, teacher.input_size, data.fingerprint(), preparation.fingerprint(data)]
    digests = [hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()[:12]]
    broadcast_object_list(digests)
    file = folder / f"teacher_{kind}_{teacher.name}_{digests[0]}.pth"
    with _locked(file):
        found = file.is_file()
        barrier()
        if not found:
            partial = file.with_suffix(".partial.pth")
            with isolated_rng(f"teacher {kind}/{teacher.name}"):
                result = preparation.run(data, partial)
            if is_main_process():
                save_atomically(result, file)
                partial.unlink(missing_ok=True)
            barrier()
    if found and (changed := data.changed_images(since=file.stat().st_mtime)):
        warn(
            f"{file} is read, and images were changed after it was written ({join_first(changed)}): remove it if they "
            "show something else"
        )
    stored = read_checkpoint(str(file))
    log_scores(preparation, stored, data)
    preparation.judge(stored)
    return preparation.load(stored["state_dict"], str(file))


def log_scores(preparation: TeacherPreparation, result: Mapping[str, Any], data: TrainingData) -> None:
    """Log the scores of a result beside chance, and warn of those that are not above it."""
    subject, logger = f"{preparation.kind} of teacher {preparation.teacher.name!r}", data.runner.logger
    chance = f" (chance {result['chance']:.1%})" if "chance" in result else ""
    scores = ", ".join(f"{name}: {score:.1%}{chance}" for name, score in result["scores"].items())
    logger.info(f"{subject}, {result['metric']}: {scores}")
    if result.get("at_chance"):
        listed = ", ".join(result["at_chance"])
        logger.warning(f"{subject} at {listed} are not clearly above chance and teach noise: {preparation.remedy}")


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock of a result on the main process; the others wait for it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock") if is_main_process() else contextlib.nullcontext():
        barrier()
        yield
