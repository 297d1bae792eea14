"""mmengine's CheckpointHook on the atomic backend: under a real SIGKILL, a full disk, and in ordinary runs."""

from pathlib import Path

import pytest
import torch

from ..helpers.compare import differences
from ..helpers.tools import KILLED
from ..helpers.toy_training import same_iterations

#: With this seed the second epoch is better than the first.
JOB = {"seed": 24, "checkpoint": {"interval": 1, "save_best": "auto"}}


def named(work_dir: Path) -> Path:
    """Return the checkpoint that ``last_checkpoint`` names."""
    return Path((work_dir / "last_checkpoint").read_text())


def files(work_dir: Path) -> set[str]:
    return {path.name for path in work_dir.iterdir() if path.suffix in (".pth", ".part") or "last" in path.name}


def all_load(work_dir: Path) -> bool:
    return all(torch.load(path, weights_only=False)["state_dict"] for path in work_dir.glob("*.pth"))


@pytest.fixture(scope="module")
def reference(trainings, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("reference")
    return work_dir, trainings.finish(work_dir, **JOB)


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param({"call": "fsync", "name": "epoch_1.pth"}, id="half the first checkpoint"),
        pytest.param({"call": "fsync", "name": ".epoch_3.pth"}, id="half a later checkpoint"),
        pytest.param({"call": "fsync", "name": ".best", "nth": 2}, id="half the second best checkpoint"),
        pytest.param({"call": "replace", "name": "epoch_2.pth", "nth": 2}, id="before the best score is recorded"),
        pytest.param({"call": "remove", "name": "epoch_1.pth"}, id="before the old checkpoint is removed"),
        pytest.param({"call": "remove", "name": "best"}, id="before the old best checkpoint is removed"),
    ],
)
def test_killed_while_writing(trainings, tmp_path, reference, kill):
    work_dir, expected = reference
    assert trainings.run(tmp_path, **JOB, kill=kill) == KILLED
    assert all_load(tmp_path)
    if (tmp_path / "last_checkpoint").exists():
        assert named(tmp_path).is_file()
    assert differences(expected, trainings.finish(tmp_path, **JOB, resume=True)) == []
    assert same_iterations(tmp_path, work_dir)
    # A removal that was due at the kill is not made up for.
    stale = {"remove": {"epoch_1.pth", "best_accuracy_top1_epoch_1.pth"}}.get(kill["call"], set())
    assert files(work_dir) <= files(tmp_path) <= files(work_dir) | stale


@pytest.mark.parametrize("text", ["", "epoch_1.pth"])
def test_killed_before_last_checkpoint_is_rewritten(trainings, tmp_path, reference, text):
    """mmengine overwrites this file: it may be empty, or name a checkpoint that was removed by then."""
    assert trainings.run(tmp_path, **JOB, kill_before=9) == KILLED
    (tmp_path / "last_checkpoint").write_text(text and str(tmp_path / text))
    assert differences(reference[1], trainings.finish(tmp_path, **JOB, resume=True)) == []
    assert "resumed epoch: 2" in (tmp_path / "output").read_text()


def test_one_checkpoint_and_the_best_are_on_disk(reference):
    work_dir, state = reference
    best = [name for name in files(work_dir) if name.startswith("best")]
    assert files(work_dir) == {"epoch_3.pth", "last_checkpoint", *best}
    assert len(best) == 1
    assert named(work_dir) == work_dir / "epoch_3.pth"
    hub = torch.load(named(work_dir), weights_only=False)["message_hub"]["runtime_info"]
    assert hub["best_ckpt"] == str(work_dir / best[0])
    assert hub["best_score"] == state["best"]


def test_a_full_disk_stops_with_one_line_and_leaves_the_old_checkpoint(trainings, tmp_path, reference):
    assert trainings.run(tmp_path, **JOB, full="epoch_2.pth") == 1
    last_line = (tmp_path / "output").read_text().strip().splitlines()[-1]
    assert last_line.startswith(f"OSError: [Errno 28] cannot write {tmp_path / 'epoch_2.pth'}")
    assert "No space left on device" in last_line
    assert "free some space or change the folder, then resume" in last_line
    assert named(tmp_path) == tmp_path / "epoch_1.pth"
    assert all_load(tmp_path)
    assert not list(tmp_path.glob(".*.part"))
    assert differences(reference[1], trainings.finish(tmp_path, **JOB, resume=True)) == []


def test_another_folder_several_bests_and_published_files(trainings, tmp_path):
    checkpoint = {
        "interval": 1,
        "out_dir": str(tmp_path / "out"),
        "max_keep_ckpts": 2,
        "save_best": ["accuracy/top1", "accuracy/top2"],
        "published_keys": ["meta", "state_dict"],
        "save_begin": 1,
    }
    job = {"seed": 3, "checkpoint": checkpoint, "runner": {"val_evaluator": {"type": "Accuracy", "topk": [1, 2]}}}
    trainings.finish(tmp_path / "run", **job)
    out = tmp_path / "out" / "run"
    assert named(tmp_path / "run") == out / "epoch_3.pth"
    assert {"epoch_2.pth", "epoch_3.pth"} <= files(out)
    assert "epoch_1.pth" not in files(out)
    for name in ("top1", "top2"):
        assert len(list(out.glob(f"best_accuracy_{name}_epoch_?.pth"))) == 1
    (published,) = out.glob("epoch_3-*.pth")
    assert set(torch.load(published, weights_only=False)) == {"meta", "state_dict"}
    (tmp_path / "run" / "last_checkpoint").write_text("")
    trainings.finish(tmp_path / "run", **job, resume=True)
    assert "resumed epoch: 3" in (tmp_path / "run" / "output").read_text()
