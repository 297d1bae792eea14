"""Runs that are killed for real and resumed, against the same run left alone: every bit must agree."""

from __future__ import annotations

import io

import pytest
import torch
from mmengine.registry import DATASETS

from ..helpers.compare import differences
from ..helpers.tools import KILLED
from ..helpers.toy_training import final, same_iterations

BEST = {"save_best": "auto"}


def every(iterations: int) -> dict:
    """A checkpoint every so many iterations; an epoch has 4, and a run 3 epochs."""
    return {"interval": iterations, "by_epoch": False, **BEST}


EPOCHS = {"interval": 1, **BEST}
PERSISTENT = {"workers": 2, "persistent": True}
ALONE = {"val_workers": 0}  # workers for validation too are for the cases without this
SWITCH = [{"action_epoch": 2, "train_pipeline": [{"type": "Noise"}, {"type": "PackInputs"}]}]
BY_ITER = {"by_epoch": False, "max_iters": 10}
ON_DEVICE = {
    "hooks": [{"type": "kd_mm.DeviceLoader"}],
    "loader": {
        "dataset": {
            "type": "ToyImages",
            "length": 14,
            "pipeline": [
                {"type": "RandomCrop", "crop_size": 16, "padding": 2},
                {"type": "RandomFlip", "prob": 0.5},
                {"type": "PackInputs"},
            ],
        },
    },
}
#: A job, and for each way to save checkpoints the iterations before which, or before whose validation, its process is
#: killed, one after the other.
CASES = {
    "main process loads": ({}, [(EPOCHS, [10, 12]), (every(2), [3, 7, 9])]),
    "persistent workers": (PERSISTENT, [(EPOCHS, [10]), (every(3), [7, 11])]),
    "passing workers": ({"workers": 2}, [(every(3), [7])]),
    "fewer batches than workers so far": ({**PERSISTENT, "workers": 3, **ALONE}, [(every(5), [7])]),
    "workers replaced by a hook": (
        {**PERSISTENT, **ALONE, "hooks": [{"type": "SwitchRecipeHook", "schedule": SWITCH}]},
        [(every(2), [5, 7, 11])],
    ),
    "between two optimizer steps": ({"accumulate": 4}, [(every(3), [4, 10])]),
    "by iterations, endless sampler": (
        {
            **PERSISTENT,
            **ALONE,
            "loop": {**BY_ITER, "val_interval": 3},
            "loader": {"sampler": {"type": "InfiniteSampler", "shuffle": True}},
        },
        [(every(3), [5, 8])],
    ),
    "by iterations, many passes, dynamic validation": (
        {"loop": {**BY_ITER, "val_interval": 4, "dynamic_intervals": [(5, 2)]}},
        [(every(2), [7, 9, 10])],
    ),
    "images on the device, by iterations": ({**ON_DEVICE, "loop": {**BY_ITER, "val_interval": 4}}, [(every(2), [7])]),
}


@pytest.mark.parametrize("name", CASES)
def test_killed_and_resumed_equals_uninterrupted(trainings, tmp_path, name):
    """Without workers the uninterrupted run has not even the hook, which then changes no run."""
    job, cuts = CASES[name]
    job = {"seed": 3, **job}
    expected = trainings.finish(tmp_path / "reference", **job, checkpoint=cuts[0][0], upstream=not job.get("workers"))
    for checkpoint, kills in cuts:
        cut = tmp_path / f"cut{checkpoint['interval']}"
        for number, iteration in enumerate(kills):
            killed = trainings.run(cut, **job, checkpoint=checkpoint, resume=number > 0, kill_before=iteration)
            assert killed == KILLED
        found = trainings.finish(cut, **job, checkpoint=checkpoint, resume=True)
        assert differences(expected, found) == []
        assert same_iterations(cut, tmp_path / "reference")


STOPPING = {"type": "EarlyStoppingHook", "monitor": "accuracy/top1", "min_delta": 5, "patience": 2}
ADAMW = {
    "accumulative_counts": 3,
    "clip_grad": {"max_norm": 1.0},
    "optimizer": {"type": "AdamW", "lr": 0.01},
}


@pytest.mark.parametrize(
    "job",
    [
        pytest.param({"workers": 2, "loader": {"drop_last": True, "batch_size": 3}}, id="no seed, drop_last"),
        pytest.param(
            {"seed": 3, "runner": {"optim_wrapper": ADAMW}, "hooks": [STOPPING]},
            id="AdamW, clipping, between two steps, early stopping",
        ),
    ],
)
def test_resumed_from_any_of_its_checkpoints(trainings, tmp_path, job):
    """Also without a seed, where a second run from the start could not be compared."""
    job = {**job, **ALONE, "checkpoint": {**every(5), "max_keep_ckpts": -1}}
    expected = trainings.finish(tmp_path / "reference", **job)
    checkpoints = sorted((tmp_path / "reference").glob("iter_*.pth"))
    assert len(checkpoints) >= 3
    for path in checkpoints:
        found = trainings.finish(tmp_path / path.stem, **job, resume=True, load_from=str(path))
        assert differences(expected, found) == [], path.name


def test_the_number_of_workers_may_change(trainings, tmp_path):
    job = {"seed": 3, "checkpoint": every(3), **ALONE}
    expected = trainings.finish(tmp_path / "reference", **job, workers=1)
    assert trainings.run(tmp_path / "cut", **job, workers=3, kill_before=6) == KILLED
    assert differences(expected, trainings.finish(tmp_path / "cut", **job, workers=2, resume=True)) == []


def test_used_batches_are_not_loaded_again_and_the_state_is_plain(trainings, tmp_path):
    loaded = tmp_path / "loaded"
    job = {"seed": 3, "checkpoint": {"interval": 5, "by_epoch": False}, "loaded": str(loaded)}
    assert trainings.run(tmp_path / "run", **job, kill_before=6) == KILLED
    stored = io.BytesIO()
    torch.save(torch.load(tmp_path / "run" / "iter_5.pth", weights_only=False)["exact_resume"], stored)
    stored.seek(0)
    (state,) = torch.load(stored, weights_only=True)["ranks"]
    assert state["loaders"]["train"]["position"] == 1
    loaded.unlink()
    trainings.finish(tmp_path / "run", **job, resume=True)
    # 14 images in batches of 4: of the second epoch two batches of 4 and one of 2 are left, then a third epoch follows.
    assert len(loaded.read_text().split()) == 4 + 4 + 2 + 14


@DATASETS.register_module()
class Stream(torch.utils.data.IterableDataset):
    """Yields the toy images without an index."""

    def __init__(self, **kwargs: object) -> None:
        self.images = DATASETS.build({**kwargs, "type": "ToyImages"})

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self):
        return iter(self.images)


@pytest.mark.parametrize(
    ("first", "warning"),
    [({"upstream": True}, "holds no state of kd_mm.ExactResumeHook"), ({"ranks": 2}, "was saved by 2 processes")],
)
def test_one_warning_says_what_cannot_be_exact(trainings, tmp_path, first, warning):
    two_epochs = {"by_epoch": True, "max_epochs": 2, "val_interval": 1}
    job = {"seed": 3, "checkpoint": {"interval": 3, "by_epoch": False}, "loop": two_epochs}
    assert trainings.run(tmp_path, **job, **first, kill_before=3) == KILLED
    trainings.finish(tmp_path, **job, resume=True)
    output = (tmp_path / "output").read_text()
    assert output.count("will differ from an uninterrupted one") == output.count(warning) == 1


def test_data_without_a_position_are_warned_of_and_data_that_shrank_stop_the_resume(trainings, tmp_path):
    stream = {"batch_size": 4, "dataset": {"type": "Stream", "length": 8, "pipeline": [{"type": "PackInputs"}]}}
    trainings.finish(tmp_path / "stream", seed=3, loader={**stream, "sampler": None})
    assert (tmp_path / "stream" / "output").read_text().count("the position in the train data cannot be followed") == 1
    job = {"seed": 3, "checkpoint": {"interval": 3, "by_epoch": False}}
    assert trainings.run(tmp_path, **job, kill_before=4) == KILLED
    assert trainings.run(tmp_path, **job, resume=True, loader={"batch_size": 8}) == 1
    assert "cannot resume at batch 3: the training data now gives 2 batches" in (tmp_path / "output").read_text()


@pytest.mark.parametrize("data", [{}, ON_DEVICE], ids=["workers", "images on the device"])
def test_two_processes(trainings, tmp_path, data):
    """Each rank goes on with its own random states, partial gradients and batch-norm statistics."""
    job = {"seed": 3, "checkpoint": every(5), "accumulate": 3, "workers": 1, **ALONE, "ranks": 2, **data}
    job["loader"] = {**data.get("loader", {}), "batch_size": 2}
    expected = trainings.finish(tmp_path / "reference", **job)
    assert trainings.run(tmp_path / "cut", **job, kill_before=7) == KILLED
    assert differences(expected, trainings.finish(tmp_path / "cut", **job, resume=True)) == []
    assert differences(final(tmp_path / "reference", 1), final(tmp_path / "cut", 1)) == []
