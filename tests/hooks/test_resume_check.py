"""What a resumed run says of a config that is another one by now."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from ..helpers.tools import Tools

RESUMES = ["train", "kd_mm::quickstart/student_digits.py", "--cfg-options", "train_dataloader.dataset.indices=128"]
RESUMES += ["val_dataloader.dataset.indices=20", "default_hooks.logger.interval=1", "optim_wrapper.optimizer.lr=0.1"]


def options(epochs: int, *others: str) -> list[str]:
    return [*RESUMES, f"train_cfg.max_epochs={epochs}", f"param_scheduler.T_max={epochs}", *others]


def rates(folder: Path) -> list[float]:
    """Return the learning rate of each epoch, of all runs in a folder."""
    lines = [line for file in sorted(folder.glob("*/vis_data/scalars.json")) for line in file.read_text().splitlines()]
    found = {record["epoch"]: record["lr"] for record in map(json.loads, lines) if "lr" in record}
    return [found[epoch] for epoch in sorted(found)]


def cosine(epochs: int, first: float = 0.1) -> list[float]:
    return [first * (1 + math.cos(math.pi * epoch / epochs)) / 2 for epoch in range(epochs)]


def test_a_longer_schedule_goes_on_by_the_config(cpu_tools: Tools, tmp_path: Path) -> None:
    cpu_tools.train(*options(2)[1:], "--work-dir", tmp_path)
    ended = cpu_tools.train(*options(6)[1:], "--work-dir", tmp_path, "--resume")
    assert "resume: the config differs from the run so far: CosineAnnealingLR T_max was 2, is 6" in ended.out
    assert "The config is followed, the learning rate is 0.075 now" in ended.out
    assert rates(tmp_path) == pytest.approx([*cosine(2), *cosine(6)[2:]], abs=1e-6)
    steps = 'param_scheduler = dict(_delete_=True, type="MultiStepLR", by_epoch=True, milestones=[6, 8])'
    (tmp_path / "steps.py").write_text(f'_base_ = "{RESUMES[1]}"\n{steps}\n')
    command = [tmp_path / "steps.py", *RESUMES[2:], "train_cfg.max_epochs=7", "--work-dir", tmp_path, "--resume"]
    out = cpu_tools.train(*command).out
    assert "MultiStepLR milestones was missing, is [6, 8]; " in out
    assert "T_max" not in out.partition("resume: the config differs")[0]  # of the cosine that was replaced
    assert rates(tmp_path)[-1] == pytest.approx(0.01)


def test_other_options_of_the_optimizer_and_another_batch_are_said(cpu_tools: Tools, tmp_path: Path) -> None:
    cpu_tools.train(*options(3, "train_cfg.max_epochs=1")[1:], "--work-dir", tmp_path)
    others = [
        "optim_wrapper.optimizer.lr=0.02",
        "optim_wrapper.optimizer.weight_decay=0.5",
        "train_dataloader.batch_size=16",
        "train_dataloader.dataset.indices=96",
        "train_dataloader.num_workers=1",
    ]
    ended = cpu_tools.train(*options(3, *others)[1:], "--work-dir", tmp_path, "--resume")
    words = "train_dataloader.batch_size was 32, is 16; train_dataloader.dataset.indices was 128, is 96; opti"
    assert words in ended.out
    assert "optimizer lr was 0.1, is 0.02" in ended.out
    assert "optimizer weight_decay was 0.0005, is 0.5" in ended.out
    assert "resume: a step had 32 images, and has 16 now" in ended.out
    assert rates(tmp_path)[1:] == pytest.approx(cosine(3, 0.02)[1:], abs=1e-6)


def test_the_same_config_says_nothing_and_other_groups_are_refused(cpu_tools: Tools, tmp_path: Path) -> None:
    kept = ["default_hooks.checkpoint.interval=1", "default_hooks.checkpoint.max_keep_ckpts=2"]
    cpu_tools.train(*options(2, *kept)[1:], "--work-dir", tmp_path)
    resume = ["--work-dir", tmp_path / "again", "--resume", tmp_path / "epoch_1.pth"]
    line = cpu_tools.refused(*options(2, "optim_wrapper.paramwise_cfg.norm_decay_mult=0.0"), *resume)
    assert "error: resume: the checkpoint's optimizer has 1 groups with " in line
    assert "give what differs (optim_wrapper.paramwise_cfg.norm_decay_mult was missing, is 0.0) as they were" in line
    line = cpu_tools.refused(*options(2, "optim_wrapper.optimizer.type=RMSprop"), *resume)
    assert "error: resume: the checkpoint's optimizer has the options dampening, " in line
    assert "WARNING - resume: " not in cpu_tools.train(*options(2)[1:], *resume).out
    ended = cpu_tools.train(*options(2)[1:], *resume[:2], "--resume")
    assert "resume: the checkpoint has 2 epochs, train_cfg.max_epochs is 2: nothing is left to train" in ended.out


def test_the_best_checkpoint_is_that_of_the_own_folder_and_of_one_validation(cpu_tools: Tools, tmp_path: Path) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"
    best = "default_hooks.checkpoint.save_best=accuracy/top1"
    cpu_tools.train(*options(2, best, "optim_wrapper.optimizer.lr=1e-6")[1:], "--work-dir", first)
    shutil.copytree(first, copy)
    (kept,) = first.glob("best_*.pth")
    cpu_tools.train(*options(4, best)[1:], "--work-dir", first / "other", "--resume", first / "epoch_2.pth")
    cpu_tools.train(*options(4, best)[1:], "--work-dir", copy, "--resume")
    assert kept.is_file()
    assert len(list(copy.glob("best_*.pth"))) == 1
    ended = cpu_tools.train(*options(5, best, "val_dataloader.dataset.indices=10")[1:], "--work-dir", copy, "--resume")
    line = next(line for line in ended.out.splitlines() if "resume: the config differs" in line)
    assert "val_dataloader.dataset.indices was 20, is 10 (the best score so far does not count)" in line
    assert "The best checkpoint with " in ended.out


def test_a_schedule_by_a_metric_keeps_what_it_has_reached(cpu_tools: Tools, tmp_path: Path) -> None:
    plateau = tmp_path / "plateau.py"
    schedule = 'type="ReduceOnPlateauLR", monitor="accuracy/top1", rule="greater", patience=0, factor=0.5'
    never = 'threshold=1e6, threshold_rule="abs"'
    plateau.write_text(f'_base_ = "{RESUMES[1]}"\nparam_scheduler = dict(_delete_=True, {schedule}, {never})\n')

    def options(epochs: int, rate: float) -> list[str]:
        return [*RESUMES[2:-1], f"train_cfg.max_epochs={epochs}", f"optim_wrapper.optimizer.lr={rate}"]

    cpu_tools.train(plateau, *options(3, 0.1), "--work-dir", tmp_path / "run")
    ended = cpu_tools.train(plateau, *options(5, 0.2), "--work-dir", tmp_path / "run", "--resume")
    assert "optimizer lr was 0.1, is 0.2; ReduceOnPlateauLR end was 3, is 5. The config is followed" in ended.out
    before = rates(tmp_path / "run")[:3]
    assert before[2] < before[0]
    assert rates(tmp_path / "run")[3:] == pytest.approx([before[2], before[2] / 2])
