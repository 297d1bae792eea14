"""Runs that are killed for real and resumed, against the same run left alone: every bit must agree."""

from __future__ import annotations

import pytest
import torch

from ..helpers.tools import KILLED
from .conftest import differences, final, same_iterations

BEST = {"save_best": "auto"}


def every(iterations: int) -> dict:
    """A checkpoint every so many iterations; an epoch has 4, and a run 3 epochs."""
    return {"interval": iterations, "by_epoch": False, **BEST}


EPOCHS = {"interval": 1, **BEST}
PERSISTENT = {"workers": 2, "persistent": True}
ALONE = {"val_workers": 0}  # workers for validation too are for the cases without this
SWITCH = [{"action_epoch": 2, "train_pipeline": [{"type": "Noise"}, {"type": "PackInputs"}]}]
BY_ITER = {"by_epoch": False, "max_iters": 10}
#: A job, and for each way to save checkpoints the iterations before which its process is killed, one after the other.
CASES = {
    "main process loads": ({}, [(EPOCHS, [10]), (every(2), [3, 7, 9])]),
    "persistent workers": (PERSISTENT, [(EPOCHS, [10]), (every(3), [7, 11])]),
    "passing workers": ({"workers": 2}, [(every(3), [7])]),
    "fewer batches than workers so far": ({**PERSISTENT, "workers": 3, **ALONE}, [(every(5), [7])]),
    "workers replaced by a hook": (
        {**PERSISTENT, **ALONE, "hooks": [{"type": "SwitchRecipeHook", "schedule": SWITCH}]},
        [(every(2), [5, 7, 9, 11])],
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
    "by iterations, many passes": ({"loop": {**BY_ITER, "val_interval": 4}}, [(every(2), [7, 9])]),
}


@pytest.mark.parametrize("name", CASES)
def test_killed_and_resumed_equals_uninterrupted(server, tmp_path, name):
    """The uninterrupted run has not even the hooks: they change no run, from its first iteration on."""
    job, cuts = CASES[name]
    job = {"seed": 3, **job}
    expected = server.finish(tmp_path / "whole", **job, checkpoint=cuts[0][0], upstream=True)
    for checkpoint, kills in cuts:
        cut = tmp_path / f"cut{checkpoint['interval']}"
        for number, iteration in enumerate(kills):
            killed = server.run(cut, **job, checkpoint=checkpoint, resume=number > 0, kill_before=iteration)
            assert killed == KILLED
        found = server.finish(cut, **job, checkpoint=checkpoint, resume=True)
        assert differences(expected, found) == []
        assert same_iterations(cut, tmp_path / "whole")


@pytest.mark.parametrize(
    "job",
    [
        pytest.param({"workers": 2}, id="no seed in the config"),
        pytest.param({"seed": 3, "loader": {"sampler": {"type": "GlobalSampler"}}}, id="sampler on the global state"),
        pytest.param(
            {"seed": 3, "workers": 2, "persistent": True, "loader": {"sampler": {"type": "GlobalSampler"}}},
            id="sampler on the global state, workers",
        ),
        pytest.param({"seed": 3, "workers": 1, "loader": {"drop_last": True, "batch_size": 3}}, id="drop_last"),
        pytest.param(
            {
                "seed": 3,
                "accumulate": 3,
                "runner": {
                    "optim_wrapper": {
                        "accumulative_counts": 3,
                        "clip_grad": {"max_norm": 1.0},
                        "optimizer": {"type": "AdamW", "lr": 0.01},
                    }
                },
            },
            id="AdamW, clipping, between two steps",
        ),
        pytest.param(
            {
                "seed": 3,
                "hooks": [{"type": "EarlyStoppingHook", "monitor": "accuracy/top1", "min_delta": 5, "patience": 2}],
            },
            id="early stopping",
        ),
    ],
)
def test_resumed_from_any_of_its_checkpoints(server, tmp_path, job):
    """Also without a seed, where a second run from the start could not be compared."""
    job = {**job, **ALONE, "checkpoint": {**every(5), "max_keep_ckpts": -1}}
    expected = server.finish(tmp_path / "whole", **job)
    checkpoints = sorted((tmp_path / "whole").glob("iter_*.pth"))
    assert len(checkpoints) >= 3
    for path in checkpoints:
        found = server.finish(tmp_path / path.stem, **job, resume=True, load_from=str(path))
        assert differences(expected, found) == [], path.name


def test_batches_that_were_done_are_not_loaded_again(server, tmp_path):
    touched = tmp_path / "touched"
    job = {"seed": 3, "checkpoint": {"interval": 5, "by_epoch": False}, "touched": str(touched)}
    assert server.run(tmp_path / "run", **job, kill_before=6) == KILLED
    touched.unlink()
    server.finish(tmp_path / "run", **job, resume=True)
    # 14 images in batches of 4: of the second epoch two batches of 4 and one of 2 are left, then a third epoch follows.
    assert len(touched.read_text().split()) == 4 + 4 + 2 + 14


def test_the_stored_state_is_tensors_and_plain_values(server, tmp_path):
    job = {"seed": 3, "checkpoint": {"interval": 3, "by_epoch": False}, **PERSISTENT}
    assert server.run(tmp_path, **job, kill_before=4) == KILLED
    stored = torch.load(tmp_path / "iter_3.pth", weights_only=False)["exact_resume"]
    torch.save(stored, tmp_path / "stored.pt")
    assert differences(stored, torch.load(tmp_path / "stored.pt", weights_only=True)) == []
    assert stored["ranks"][0]["place"]["consumed"] == 3


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"workers": 1}, "was saved with num_workers=0 and is resumed with 1"),
        ({"loader": {"sampler": {"type": "GlobalSampler", "lazy": True}}}, "order of the training data is not that"),
        ({"seed": 3, "upstream": True}, "saved without kd_mm.ExactResumeHook"),
    ],
)
def test_what_cannot_be_exact_is_said(server, tmp_path, change, warning):
    two_epochs = {"by_epoch": True, "max_epochs": 2, "val_interval": 1}
    job = {"seed": 3, "checkpoint": {"interval": 3, "by_epoch": False}, "loop": two_epochs}
    first = {**job, **change} if "workers" not in change else job
    then = {**job, **change, "upstream": False}
    assert server.run(tmp_path, **first, kill_before=4) == KILLED
    server.finish(tmp_path, **then, resume=True)
    assert (tmp_path / "output").read_text().count(warning) == 1


def test_a_data_set_that_shrank_stops_the_resume(server, tmp_path):
    job = {"seed": 3, "checkpoint": {"interval": 3, "by_epoch": False}}
    assert server.run(tmp_path, **job, kill_before=4) == KILLED
    assert server.run(tmp_path, **job, resume=True, loader={"batch_size": 8}) == 1
    assert "cannot resume at batch 3: the training data now gives 2 batches" in (tmp_path / "output").read_text()


def test_two_processes(server, tmp_path):
    """Each rank goes on with its own random states, partial gradients and batch-norm statistics."""
    job = {
        "seed": 3,
        "checkpoint": every(5),
        "accumulate": 3,
        "workers": 1,
        **ALONE,
        "world_size": 2,
        "loader": {"batch_size": 2},
    }
    expected = server.finish(tmp_path / "whole", **job, rendezvous=str(tmp_path / "first"))
    cut = server.run(tmp_path / "cut", **job, rendezvous=str(tmp_path / "second"), kill_before=7)
    assert cut == KILLED
    found = server.finish(tmp_path / "cut", **job, rendezvous=str(tmp_path / "third"), resume=True)
    assert differences(expected, found) == []
    assert differences(final(tmp_path / "whole", 1), final(tmp_path / "cut", 1)) == []
