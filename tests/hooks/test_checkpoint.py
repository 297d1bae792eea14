"""Checkpoint files under a real SIGKILL, a full disk, and in ordinary runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.fileio import get_file_backend

from kd_mm.engine.atomic_files import ATOMIC_BACKEND, remove_leftovers, replace_file

from ..helpers.tools import KILLED
from .conftest import differences, same_iterations

#: With this seed the second epoch is better than the first.
JOB = {"seed": 24, "checkpoint": {"interval": 1, "save_best": "auto"}}


def named(work_dir: Path) -> Path:
    """The checkpoint that ``last_checkpoint`` names."""
    return Path((work_dir / "last_checkpoint").read_text())


def files(work_dir: Path) -> set[str]:
    return {path.name for path in work_dir.iterdir() if path.suffix in (".pth", ".part") or "last" in path.name}


def all_load(work_dir: Path) -> bool:
    return all(torch.load(path, weights_only=False)["state_dict"] for path in work_dir.glob("*.pth"))


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("whole")
    return work_dir, server.finish(work_dir, **JOB)


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param({"call": "fsync", "name": "epoch_1.pth", "nth": 1}, id="half the first checkpoint"),
        pytest.param({"call": "fsync", "name": ".epoch_3.pth"}, id="half a later checkpoint"),
        pytest.param({"call": "fsync", "name": ".best", "nth": 2}, id="half the second best checkpoint"),
        pytest.param({"call": "replace", "name": "epoch_2.pth", "nth": 2}, id="before the best score is recorded"),
        pytest.param({"call": "fsync", "name": "last_checkpoint", "nth": 3}, id="half of last_checkpoint"),
        pytest.param({"call": "remove", "name": "epoch_1.pth"}, id="before the old checkpoint is deleted"),
        pytest.param({"call": "remove", "name": "best"}, id="before the old best checkpoint is deleted"),
    ],
)
def test_killed_while_writing(server, tmp_path, whole, kill):
    reference, expected = whole
    assert server.run(tmp_path, **JOB, kill=kill) == KILLED
    assert all_load(tmp_path)
    if (tmp_path / "last_checkpoint").exists():
        assert named(tmp_path).is_file()
    assert differences(expected, server.finish(tmp_path, **JOB, resume=True)) == []
    assert same_iterations(tmp_path, reference)
    assert files(tmp_path) == files(reference)


def test_one_checkpoint_is_kept_and_the_best(whole):
    work_dir, state = whole
    best = [name for name in files(work_dir) if name.startswith("best")]
    assert files(work_dir) == {"epoch_3.pth", "last_checkpoint", *best}
    assert len(best) == 1
    assert named(work_dir) == work_dir / "epoch_3.pth"
    hub = torch.load(named(work_dir), weights_only=False)["message_hub"]["runtime_info"]
    assert hub["best_ckpt"] == str(work_dir / best[0])
    assert hub["best_score"] == state["best"]


def test_a_full_disk_stops_with_one_line_and_keeps_the_old_checkpoint(server, tmp_path, whole):
    assert server.run(tmp_path, **JOB, full="epoch_2.pth") == 1
    last_line = (tmp_path / "output").read_text().strip().splitlines()[-1]
    assert last_line.startswith(f"OSError: [Errno 28] cannot write {tmp_path / 'epoch_2.pth'}")
    assert "No space left on device" in last_line
    assert "make room or change the folder, then resume" in last_line
    assert named(tmp_path) == tmp_path / "epoch_1.pth"
    assert all_load(tmp_path)
    assert not list(tmp_path.glob(".*.part"))
    assert differences(whole[1], server.finish(tmp_path, **JOB, resume=True)) == []


def test_another_folder_several_bests_and_published_files(server, tmp_path):
    checkpoint = {
        "interval": 1,
        "out_dir": str(tmp_path / "out"),
        "max_keep_ckpts": 2,
        "save_best": ["accuracy/top1", "accuracy/top2"],
        "published_keys": ["meta", "state_dict"],
        "save_begin": 1,
    }
    evaluator = {"val_evaluator": {"type": "Accuracy", "topk": [1, 2]}}
    server.finish(tmp_path / "run", seed=3, checkpoint=checkpoint, runner=evaluator)
    out = tmp_path / "out" / "run"
    assert named(tmp_path / "run") == out / "epoch_3.pth"
    assert {"epoch_2.pth", "epoch_3.pth"} <= files(out)
    assert "epoch_1.pth" not in files(out)
    for name in ("top1", "top2"):
        assert len(list(out.glob(f"best_accuracy_{name}_epoch_?.pth"))) == 1
    (published,) = out.glob("epoch_3-*.pth")
    assert set(torch.load(published, weights_only=False)) == {"meta", "state_dict"}


def test_a_file_name_that_never_changes(server, tmp_path):
    server.finish(tmp_path, seed=3, checkpoint={"interval": 1, "filename_tmpl": "latest.pth"})
    assert named(tmp_path) == tmp_path / "latest.pth"
    assert torch.load(named(tmp_path), weights_only=False)["meta"]["epoch"] == 3


def test_replace_file_keeps_the_old_content_when_it_fails(tmp_path):
    target = tmp_path / "folder" / "file"
    replace_file(target, b"old")
    (tmp_path / "folder" / ".file.part").mkdir()
    with pytest.raises(OSError, match="cannot write .*file .*The earlier files are untouched"):
        replace_file(target, b"new")
    assert target.read_bytes() == b"old"


def test_leftovers_are_only_our_own(tmp_path):
    for name in (".a.pth.part", "b.part", ".hidden", "c.pth"):
        (tmp_path / name).touch()
    assert remove_leftovers(tmp_path) == [tmp_path / ".a.pth.part"]
    assert {path.name for path in tmp_path.iterdir()} == {"b.part", ".hidden", "c.pth"}


def test_the_backend_serves_any_mmengine_writer(tmp_path):
    backend = get_file_backend(str(tmp_path), backend_args={"backend": ATOMIC_BACKEND})
    backend.put_text("text", tmp_path / "note")
    assert backend.get_text(tmp_path / "note") == "text"
