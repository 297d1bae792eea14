"""Two processes over gloo: once by torchrun, to the end, else as it starts them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.devices import PAIRS

from ..helpers.compare import differences
from ..helpers.tools import KILLED, Tools, free_port, torchrun
from ..helpers.world import World
from .test_train_and_evaluate import accuracy

SPY = """
custom_imports = dict(imports=["kd_mm", "tests.helpers.recorder_hooks"], allow_failed_imports=False)
custom_hooks = [dict(type="SyncBuffersHook"), dict(type="kd_mm.Spy")]
"""
#: Nothing in the student mixes images of a batch, so that two batches of 6 are one of 12.
SEPARATE = """
_base_ = "plain.py"
model = dict(
    backbone=dict(
        _delete_=True, type="ResNet_CIFAR", depth=18, stem_channels=8, base_channels=4, norm_eval=NORM_EVAL
    ),
)
train_dataloader = dict(dataset=dict(pipeline=[dict(type="LoadImageFromFile"), dict(type="PackInputs")]))
"""


pair = pytest.mark.parametrize("tools", PAIRS, indirect=True)


def dump(folder: Path, moment: str, rank: int = 0) -> dict[str, Any]:
    return torch.load(folder / f"{moment}{rank}.pt", weights_only=False)


def learned(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The parameters, without the statistics of batch normalisation that each process keeps for itself."""
    return {name: state["weights"][name.removeprefix("student.")] for name in state["parameters"]}


def largest_difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """The largest distance of two sets of tensors, relative to the size of each tensor."""
    assert left.keys() == right.keys()
    return max(float((left[key] - right[key]).norm() / (right[key].norm() + 1e-6)) for key in left)


def flat(state: dict[str, Any]) -> torch.Tensor:
    return torch.cat([value.flatten() for value in learned(state).values()])


@pytest.fixture(scope="module")
def launched(tools: Tools, world: World) -> Path:
    """A real launch by torchrun, to its end."""
    folder = world.folder / "launched"
    folder.mkdir()
    ended = torchrun(tools, 2, *spied(world, folder), log=folder / "out").wait()
    assert ended == 0, (folder / "out").read_text()[-7000:]
    return folder


def spied(world: World, folder: Path) -> list[object]:
    return [world.distil("launched.py", changes=SPY), "--work-dir", folder, "--launcher", "pytorch"]


def test_one_process_under_a_launcher(tools: Tools, world: World, tmp_path: Path) -> None:
    """A group of one, over NCCL where there is a GPU: it trains, and prepares and evaluates."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    log = tools.train(*spied(world, tmp_path), env={**alone, "MASTER_PORT": str(free_port())}).out
    assert dump(tmp_path, "end")["iterations"] == 10  # 60 images, 12 a step, two epochs
    assert differences(learned(dump(tmp_path, "start")), learned(dump(tmp_path, "end"))) != []
    assert re.search(r"accuracy on the validation data: stage 1: [\d.]+%", log)
    assert re.search(r"accuracy/top1: ([\d.]+)", log)


@pair
def test_two_launched_processes_are_alike_before_and_after_training(launched: Path) -> None:
    first, second = dump(launched, "start", 0), dump(launched, "start", 1)
    assert differences(first["weights"], second["weights"]) == []
    assert differences(first["exits"], second["exits"]) == []
    assert {"distill.exits.1.fc.weight", "distill.connectors.teacher.3.body.0.weight"} <= set(first["weights"])
    assert first["exits"]["teacher"]
    assert first["unused"] is False
    first, second = dump(launched, "end", 0), dump(launched, "end", 1)
    assert first["iterations"] == 6  # 60 images, two processes of 12 a step, two epochs
    assert differences(learned(first), learned(second)) == []
    assert differences(learned(first), learned(dump(launched, "start"))) != []


@pair
def test_the_exits_are_prepared_together(launched: Path) -> None:
    log = (launched / "out").read_text()
    assert log.count("training the exits of teacher 'teacher'") == 1  # only the first process writes a log
    assert re.search(r"accuracy on the validation data: stage 1: [\d.]+%", log)
    assert re.search(r"% of the first 26 validation images", log)  # 25, and the one that fills the second share
    (file,) = launched.glob("teacher_exits_*.pth")
    stored = torch.load(file, weights_only=True)["state_dict"]
    assert differences(dict(stored), dict(dump(launched, "start", 1)["exits"]["teacher"])) == []


@pair
def test_the_metric_is_that_of_one_process(tools: Tools, world: World, launched: Path, tmp_path: Path) -> None:
    """25 images, of which two processes get 13 each: the one that comes twice counts once."""
    config, checkpoint = world.folder / "launched.py", launched / "epoch_2.pth"
    alone = tools.test(config, checkpoint, "--work-dir", tmp_path / "alone")
    together = tools.test(config, checkpoint, "--work-dir", tmp_path / "together", "--launcher", "pytorch", ranks=2)
    assert accuracy(together) == accuracy(alone)
    found = re.findall(r"accuracy/top1: ([\d.]+)", (launched / "out").read_text())
    assert float(found[-1]) == accuracy(alone)


@pytest.fixture(scope="module")
def exits(tools: Tools, world: World) -> Path:
    """Exits with group normalisation, prepared by one process."""
    changes = 'model = dict(recipe=dict(exits=dict(norm="GN")))'
    config = world.distil("group_exits.py", changes=changes)
    tools.train(config, "--work-dir", world.folder / "group", "--cfg-options", "train_cfg.max_epochs=1")
    return next((world.folder / "group").glob("teacher_exits_*.pth"))


@pair
@pytest.mark.parametrize("norm", ["frozen", "synchronised"])
def test_two_small_batches_give_the_gradient_of_one(tools, world, exits, tmp_path, norm) -> None:
    frozen = norm == "frozen"
    world.write("separate.py", SEPARATE.replace("NORM_EVAL", str(frozen)))
    recipe = f'teacher_exits=dict(checkpoint=r"{exits}"), exits=dict(norm="GN")'
    # Where widths agree, which they do here, this connector is the identity: no statistics of a batch.
    recipe += ', connectors=dict(policy="on_mismatch")' if frozen else ""
    changes = f"{SPY}\nmodel = dict(recipe=dict({recipe}))"
    # At a hundredth of the rate: ten larger steps blow rounding up, on some processors beyond the bound below.
    changes += "\noptim_wrapper = dict(optimizer=dict(lr=0.0005))"
    config = world.distil("equal.py", plain="separate.py", changes=changes)
    tools.train(config, "--work-dir", tmp_path / "one", "--cfg-options", "train_dataloader.batch_size=12")
    # The conversion of the normalisation draws random numbers, so both start from the same file.
    torch.save({"state_dict": dump(tmp_path / "one", "start")["weights"]}, tmp_path / "start.pth")
    options = ["train_dataloader.batch_size=6", f"load_from={tmp_path}/start.pth"]
    options += [] if frozen else ["sync_bn=mmcv"]
    command = [config, "--launcher", "pytorch", "--work-dir", tmp_path / "two", "--cfg-options", *options]
    tools.train(*command, ranks=2)
    two, one = dump(tmp_path / "two", "first"), dump(tmp_path / "one", "first")
    assert differences(dump(tmp_path / "two", "start")["weights"], dump(tmp_path / "one", "start")["weights"]) == []
    assert len(one["momentum"]) == len(one["parameters"])
    assert largest_difference(two["momentum"], one["momentum"]) < 1e-5
    two, one = dump(tmp_path / "two", "end"), dump(tmp_path / "one", "end")
    assert one["iterations"] == two["iterations"] == 10
    # All parameters as one vector: in ten steps rounding may turn a ReLU on the other side, which moves a single bias.
    assert torch.dist(flat(two), flat(one)) < 1e-6 * flat(one).norm()


@pair
def test_losses_that_start_late_do_not_hang(tools: Tools, world: World, tmp_path: Path) -> None:
    """In the first epoch no exit and no connector is used, and no search for unused parameters is made."""
    late = ", ".join(
        f'{name}=dict(schedule=dict({"_delete_=True, " if name == "review" else ""}type="Late"))'
        for name in ("aux", "scd", "srd", "review")
    )
    config = world.distil("late.py", changes=f"{SPY}\nmodel = dict(recipe=dict(losses=dict({late})))")
    ended = tools.train(config, "--launcher", "pytorch", "--work-dir", tmp_path, ranks=2)
    epochs = [line for line in ended.out.splitlines() if "Epoch(train)" in line]
    assert "loss_scd" not in epochs[0]
    assert "loss_scd" in epochs[-1]
    first, second = dump(tmp_path, "end", 0), dump(tmp_path, "end", 1)
    assert first["unused"] is False
    assert differences(learned(first), learned(second)) == []
    start, end = learned(dump(tmp_path, "start")), learned(first)
    assert all(not torch.equal(start[name], end[name]) for name in start)


@pair
def test_two_killed_processes_go_on_exactly(tools: Tools, world: World, tmp_path: Path) -> None:
    """Killed while the exits are prepared, then in an epoch; no statistics are averaged, so the processes differ."""
    changes = SPY.replace('dict(type="SyncBuffersHook"), ', "")
    changes += "default_hooks = dict(checkpoint=dict(interval=2, by_epoch=False))\n"
    config = world.distil("pair.py", changes=changes)
    launch = [config, "--launcher", "pytorch", "--resume", "--work-dir"]
    tools.train(*launch, tmp_path / "uncut", ranks=2)
    for kill in ({"call": "replace", "name": "partial.pth", "nth": 2}, {"iteration": 5}):
        assert tools.run("train", *launch, tmp_path / "cut", ranks=2, kill=kill).status == KILLED
    ended = tools.train(*launch, tmp_path / "cut", ranks=2)
    assert "Going on after batch 1 of this pass" in ended.out
    ends = [[dump(tmp_path / name, "end", rank) for rank in (0, 1)] for name in ("uncut", "cut")]
    assert differences(ends[0], ends[1]) == []
    assert differences(ends[0][0]["weights"], ends[0][1]["weights"]) != []
