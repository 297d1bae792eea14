"""Data that a run needs only later are looked for before its first step."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import DATASETS
from mmengine.runner import BaseLoop, Runner

from kd_mm.apis.explain import said
from kd_mm.hooks.random_state import capture_random_state, restore_random_state

#: Images looked for in a data set, evenly spread: enough to miss a folder, few enough for the largest list.
_LOOKED_FOR = 1000


class DataCheckHook(Hook):
    """Looks for the images of training and validation, which many data sets of upstream take from their lists unseen.

    The engine reads the lists themselves before the first step, except for those of the test. Training does not need
    the test data, so one line of the log warns of what is wrong with them.

    Args:
        tested: The run ends with a test: wrong test data stop it.
    """

    priority = "VERY_HIGH"  # before anything is prepared on a teacher

    def __init__(self, tested: bool = False) -> None:
        self.tested = tested

    def before_run(self, runner: Runner) -> None:
        """Look at the data sets of the loops that have been built, and build that of the test.

        Raises:
            FileNotFoundError: There are images missing.
        """
        for key, loop in (("train_dataloader", runner._train_loop), ("val_dataloader", runner._val_loop)):
            if isinstance(loop, BaseLoop):
                require_images(key, loop.dataloader.dataset)
        if isinstance(runner._train_loop, BaseLoop) and is_main_process():
            self._look_at_test(runner)

    def _look_at_test(self, runner: Runner) -> None:
        validation, test = (runner.cfg.get(f"{part}_dataloader") or {} for part in ("val", "test"))
        if not test or test.get("dataset") == validation.get("dataset"):
            return
        random_state = capture_random_state()
        try:
            require_images("test_dataloader", DATASETS.build(copy.deepcopy(test["dataset"])))
        except Exception as error:
            if self.tested:
                raise
            what = said(error).splitlines()[0]
            where = "" if what.startswith("test_dataloader") else "test_dataloader: "
            runner.logger.warning(f"{where}{what} (training does not need it, a test will)")
        finally:
            restore_random_state(random_state)


def require_images(key: str, dataset: Any) -> None:
    """Stop where image files of a data set are not there; wrapped and joined data sets are looked into.

    Raises:
        FileNotFoundError: Naming the first one, and how many of those looked for are missing.
    """
    for part in _parts(dataset):
        if not any(map(_reads_files, getattr(getattr(part, "pipeline", None), "transforms", ()))):
            continue
        step = -(-len(part) // _LOOKED_FOR) or 1
        paths = [part.get_data_info(index).get("img_path") for index in range(0, len(part), step)]
        missing = [path for path in paths if isinstance(path, str) and "://" not in path and not os.path.isfile(path)]
        if missing:
            raise FileNotFoundError(
                f"{key}: {missing[0]} does not exist (missing are {len(missing)} of {len(paths)} images looked for): "
                "put the data there, or set data_root"
            )


def _parts(dataset: Any) -> Iterator[Any]:
    if hasattr(dataset, "get_data_info") and not hasattr(dataset, "dataset") and not hasattr(dataset, "datasets"):
        yield dataset
    for part in (*getattr(dataset, "datasets", ()), *([dataset.dataset] if hasattr(dataset, "dataset") else ())):
        yield from _parts(part)


def _reads_files(step: Any) -> bool:
    """Whether a step of a pipeline opens the path itself, from no store that may give it another meaning."""
    store = getattr(step, "backend_args", None) or getattr(step, "file_client_args", None)
    return isinstance(step, LoadImageFromFile) and not store
