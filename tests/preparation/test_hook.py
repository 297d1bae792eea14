"""One hook for all preparations: lengths in epochs, runs side by side, losses without anything to prepare."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger

from kd_mm.preparation import share_preparations
from kd_mm.preparation.base import TeacherPreparation
from kd_mm.preparation.data import TrainingData
from kd_mm.preparation.hook import load_or_run

from ..distillers.conftest import build, recipe

DATA: Any = SimpleNamespace(
    runner=SimpleNamespace(logger=MMLogger.get_instance("preparation")),
    fingerprint=list,
    changed_images=lambda since: [],
)


class Slow(TeacherPreparation):
    """Takes a moment; counts its runs."""

    kind = "slow"
    defaults = {"size": 1}
    runs = 0

    def fingerprint(self, data: TrainingData) -> list[Any]:
        return [self.options]

    def run(self, data: TrainingData, partial: Path) -> dict[str, Any]:
        type(self).runs += 1
        time.sleep(0.3)
        return {"state_dict": self.options["size"], "scores": {"done": 1.0}, "metric": "share"}


def test_runs_side_by_side_compute_a_result_once(tmp_path: Path) -> None:
    distiller = build(recipe=recipe("kd"))
    results: list[int] = []

    def run(size: int) -> None:
        preparation = Slow(distiller, distiller.teachers["teacher"], "test", {"size": size})
        results.append(load_or_run(preparation, DATA, tmp_path / "shared"))

    threads = [threading.Thread(target=run, args=(size,)) for size in (1, 1, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [1, 1, 1, 2]
    assert Slow.runs == 2
    assert len(list((tmp_path / "shared").glob("teacher_slow_teacher_*.pth"))) == 2


def test_the_folder_is_shared_unless_the_config_names_one(tmp_path: Path) -> None:
    hooks = {"prepare_teachers": {"type": "kd_mm.PrepareTeachersHook"}, "logger": {"type": "LoggerHook"}, "timer": None}
    config = Config({"default_hooks": hooks})
    share_preparations(config, tmp_path)
    assert config.default_hooks.prepare_teachers.cache_dir == str(tmp_path)
    assert "cache_dir" not in config.default_hooks.logger
    share_preparations(config, tmp_path / "other")
    assert config.default_hooks.prepare_teachers.cache_dir == str(tmp_path)
    share_preparations(Config({}), tmp_path)


def test_lengths_are_fractions_of_the_run() -> None:
    for run, epochs, fraction, milestones, expected in (
        (240, None, 100 / 240, [0.3, 0.6, 0.9], (100, [30, 60, 90])),
        (240, None, 1 / 1000, [0.5], (6, [3])),
        (3, None, 100 / 240, [0.5], (3, [2])),
        (240, 8, 100 / 240, [0.3, 0.6, 0.9], (8, [2, 5, 7])),
    ):
        runner: Any = SimpleNamespace(max_iters=5 * run, train_dataloader=range(5), cfg=None)  # by either loop
        data, distiller = TrainingData, build(recipe=recipe("kd"))
        options = {"epochs": epochs, "fraction": fraction, "min_epochs": 6, "milestones": milestones}
        assert data(runner, distiller).epochs(options, "exits") == expected
