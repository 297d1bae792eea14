"""Runs that are killed for real and resumed, against the same run left alone: every bit must agree."""

from __future__ import annotations

import pytest
import torch

from ..tools import KILLED
from .conftest import differences, final, same_iterations

EPOCHS = {"seed": 3, "checkpoint": {"interval": 1, "save_best": "auto"}}
BY_ITER = {"interval": 4, "by_epoch": False, "save_best": "auto"}
BY_ITER_TWO = {"seed": 3, "checkpoint": {**BY_ITER, "interval": 5}, "accumulate": 3, "workers": 1}
SWITCH = [{"action_epoch": 2, "train_pipeline": [{"type": "Noise"}, {"type": "PackInputs"}]}]
CASES = {
    "main process loads": ({**EPOCHS}, [14]),
    "main process loads, mid-epoch": ({"seed": 3, "checkpoint": BY_ITER}, [6, 11, 14]),
    "persistent workers": ({**EPOCHS, "workers": 2, "persistent": True}, [14]),
    "persistent workers, mid-epoch": ({"seed": 3, "checkpoint": BY_ITER, "workers": 2, "persistent": True}, [9, 17]),
    "passing workers, mid-epoch": ({"seed": 3, "checkpoint": {**BY_ITER, "interval": 5}, "workers": 2}, [11]),
    "fewer batches than workers so far": (
        {"seed": 3, "checkpoint": {**BY_ITER, "interval": 7}, "workers": 3, "persistent": True},
        [9],
    ),
    "workers replaced by a hook": (
        {
            "seed": 3,
            "checkpoint": {**BY_ITER, "interval": 3},
            "workers": 2,
            "persistent": True,
            "hooks": [{"type": "SwitchRecipeHook", "schedule": SWITCH}],
        },
        [7, 10, 13, 16],
    ),
    "between two optimizer steps": (
        {"seed": 3, "checkpoint": {**BY_ITER, "interval": 3}, "accumulate": 4},
        [4, 10],
    ),
    "by iterations, endless sampler": (
        {
            "seed": 3,
            "checkpoint": {**BY_ITER, "interval": 3},
            "workers": 2,
            "persistent": True,
            "loop": {"by_epoch": False, "max_iters": 14, "val_interval": 3},
            "loader": {"sampler": {"type": "InfiniteSampler", "shuffle": True}},
        },
        [5, 10],
    ),
    "by iterations, many passes": (
        {
            "seed": 3,
            "checkpoint": {**BY_ITER, "interval": 4},
            "loop": {"by_epoch": False, "max_iters": 14, "val_interval": 6},
        },
        [9, 13],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_killed_and_resumed_equals_uninterrupted(server, tmp_path, name):
    job, kills = CASES[name]
    expected = server.finish(tmp_path / "whole", **job)
    for number, iteration in enumerate(kills):
        assert server.run(tmp_path / "cut", **job, resume=number > 0, kill_before=iteration) == KILLED
    found = server.finish(tmp_path / "cut", **job, resume=True)
    assert differences(expected, found) == []
    assert same_iterations(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_uninterrupted_run_is_the_run_without_the_hooks(server, tmp_path, workers):
    job = {**EPOCHS, "workers": workers, "persistent": True}
    plain = server.finish(tmp_path / "plain", **job, upstream=True)
    assert differences(plain, server.finish(tmp_path / "ours", **job)) == []


@pytest.mark.parametrize(
    "job",
    [
        pytest.param({"workers": 2}, id="no seed in the config"),
        pytest.param({"seed": 3, "loader": {"sampler": {"type": "GlobalSampler"}}}, id="sampler on the global state"),
        pytest.param(
            {"seed": 3, "workers": 2, "persistent": True, "loader": {"sampler": {"type": "GlobalSampler"}}},
            id="sampler on the global state, workers",
        ),
        pytest.param({"seed": 3, "workers": 1, "loader": {"drop_last": True}}, id="drop_last"),
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
    job = {**job, "checkpoint": {**BY_ITER, "interval": 7, "max_keep_ckpts": -1}}
    expected = server.finish(tmp_path / "whole", **job)
    checkpoints = sorted((tmp_path / "whole").glob("iter_*.pth"))
    assert len(checkpoints) >= 3
    for path in checkpoints:
        found = server.finish(tmp_path / path.stem, **job, resume=True, load_from=str(path))
        assert differences(expected, found) == [], path.name


def test_batches_that_were_done_are_not_loaded_again(server, tmp_path):
    touched = tmp_path / "touched"
    job = {"seed": 3, "checkpoint": {"interval": 5, "by_epoch": False}, "touched": str(touched)}
    assert server.run(tmp_path / "run", **job, kill_before=11) == KILLED
    touched.unlink()
    server.finish(tmp_path / "run", **job, resume=True)
    # 22 images in batches of 4: of the second epoch one batch of 4 and one of 2 are left, then a third epoch follows.
    assert len(touched.read_text().split()) == 4 + 2 + 22


def test_the_stored_state_is_tensors_and_plain_values(server, tmp_path):
    job = {"seed": 3, "checkpoint": {"interval": 5, "by_epoch": False}, "workers": 2, "persistent": True}
    assert server.run(tmp_path, **job, kill_before=6) == KILLED
    stored = torch.load(tmp_path / "iter_5.pth", weights_only=False)["exact_resume"]
    torch.save(stored, tmp_path / "stored.pt")
    assert differences(stored, torch.load(tmp_path / "stored.pt", weights_only=True)) == []
    assert stored["ranks"][0]["place"]["consumed"] == 5


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"workers": 1}, "was saved with num_workers=0 and is resumed with 1"),
        ({"loader": {"sampler": {"type": "GlobalSampler", "lazy": True}}}, "order of the training data is not that"),
        ({"seed": 3, "upstream": True}, "saved without kd_mm.ExactResumeHook"),
    ],
)
def test_what_cannot_be_exact_is_said(server, tmp_path, change, warning):
    job = {"seed": 3, "checkpoint": {"interval": 5, "by_epoch": False}}
    first = {**job, **change} if "workers" not in change else job
    then = {**job, **change, "upstream": False}
    assert server.run(tmp_path, **first, kill_before=6) == KILLED
    server.finish(tmp_path, **then, resume=True)
    assert (tmp_path / "output").read_text().count(warning) == 1


def test_a_data_set_that_shrank_stops_the_resume(server, tmp_path):
    job = {"seed": 3, "checkpoint": {"interval": 5, "by_epoch": False}}
    assert server.run(tmp_path, **job, kill_before=6) == KILLED
    assert server.run(tmp_path, **job, resume=True, loader={"batch_size": 8}) == 1
    assert "cannot resume at batch 5: the training data now gives 3 batches" in (tmp_path / "output").read_text()


def test_two_processes(server, tmp_path):
    """Each rank goes on with its own random states, partial gradients and batch-norm statistics."""
    job = {**BY_ITER_TWO, "world_size": 2}
    expected = server.finish(tmp_path / "whole", **job, rendezvous=str(tmp_path / "first"))
    cut = server.run(tmp_path / "cut", **job, rendezvous=str(tmp_path / "second"), kill_before=7)
    assert cut == KILLED
    found = server.finish(tmp_path / "cut", **job, rendezvous=str(tmp_path / "third"), resume=True)
    assert differences(expected, found) == []
    assert differences(final(tmp_path / "whole", 1), final(tmp_path / "cut", 1)) == []
