"""What is checked of any run: losses that are not finite, images of a step, its schedules."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..helpers.tools import Tools, failed

DIVERGES = ["train", "kd_mm::quickstart/student_digits.py", "--cfg-options", "train_dataloader.dataset.indices=640"]
ONE_STEP = "train_dataloader.dataset.indices=32 train_cfg.max_epochs=1 optim_wrapper.optimizer.lr=1e25"


@pytest.mark.parametrize(
    ("options", "iteration", "advice"),
    [
        (
            "optim_wrapper.optimizer.lr=1e30",
            None,
            "loss is not finite (loss); training stops, no|with a lower learning rate",
        ),
        ("model.head.loss.loss_weight=1e39", 1, "loss is not finite (loss)|look at the data of the first step"),
        (ONE_STEP, 1, "weights are infinite, NaN or close to it (|with a lower learning rate"),
        (f"{ONE_STEP} default_hooks.checkpoint=None", 1, "weights are infinite, NaN or close to it ("),
    ],
)
def test_a_plain_run_ends_at_the_first_loss_that_is_not_finite(
    cpu_tools: Tools, tmp_path: Path, options: str, iteration: int | None, advice: str
) -> None:
    ended = cpu_tools.run(*DIVERGES, *options.split(), "--work-dir", tmp_path / "run")
    line = failed(ended, *advice.split("|"))
    assert line.startswith(f"error: iteration {'' if iteration is None else iteration}")
    assert not list((tmp_path / "run").glob("*.pth"))


ACCUMULATES = ["kd_mm::quickstart/student_digits.py", "--cfg-options", "train_dataloader.dataset.indices=32"]
ACCUMULATES += ["val_dataloader.dataset.indices=20", "train_dataloader.batch_size=8", "train_cfg.max_epochs=1"]


@pytest.mark.parametrize(
    ("accumulated", "base", "warning", "ratio"),
    [
        (2, 16, None, "1.0"),
        (
            1,
            16,
            "a step has 8 images (8 a batch, 1 accumulated, 1 at a time), the learning rate of this config",
            "0.5",
        ),
    ],
)
def test_a_step_counts_accumulated_batches(
    cpu_tools: Tools, tmp_path: Path, accumulated: int, base: int, warning: str | None, ratio: str
) -> None:
    options = [f"optim_wrapper.accumulative_counts={accumulated}", f"auto_scale_lr.base_batch_size={base}"]
    out = cpu_tools.train(*ACCUMULATES, *options, "--work-dir", tmp_path / "plain").out
    assert ("a step has" in out) == (warning is not None)
    assert warning is None or warning in out
    out = cpu_tools.train(*ACCUMULATES, *options, "--work-dir", tmp_path / "scaled", "--auto-scale-lr").out
    assert "a step has" not in out
    assert f"Scaling the original LR by {ratio}." in out


SECTIONS = ("train_cfg.", "param_scheduler: ", "optim_wrapper.", "CheckpointHook: ", "ReduceOnPlateauLR: ")


def test_schedules_that_the_length_of_the_run_does_not_fit(cpu_tools: Tools, tmp_path: Path) -> None:
    def arguments(*schedules: str) -> list[object]:
        listed = ", ".join(f"dict({schedule})" for schedule in schedules)
        path = tmp_path / "config.py"
        path.write_text(f'_base_ = "{ACCUMULATES[0]}"\nparam_scheduler = [{listed}]\n')
        rest = ["train_cfg.val_begin=5", "optim_wrapper.optimizer.lr=0.0", "optim_wrapper.optimizer.momentum=2"]
        rest += ["optim_wrapper.accumulative_counts=9", "default_hooks.checkpoint.interval=2"]
        rest += ["default_hooks.checkpoint.save_last=False"]
        rest += ["--work-dir", tmp_path / "run"]
        return [path, *ACCUMULATES[1:], *rest]

    fit = (
        'type="LinearLR", start_factor=0.1, by_epoch=False, end=2',
        'type="CosineAnnealingLR", begin=2, by_epoch=False',
    )
    late = 'type="MultiStepLR", milestones=[1, 3]', 'type="LinearLR", by_epoch=False, end=500'
    late += ('type="LinearLR", by_epoch=False, begin=4, end=8', 'type="StepLR", step_size=1, gamma=0')
    late += ('type="ReduceOnPlateauLR", monitor="accuracy/top1"',)
    out = cpu_tools.train(*arguments(*fit, *late, 'type="CosineAnnealingLR", T_max=2, by_epoch=False')).out
    found = [text for line in out.splitlines() if (text := line.partition("WARNING - ")[2]).startswith(SECTIONS)]
    assert found == [
        "train_cfg.val_begin=5 is never reached, the run has 1 epochs",
        "param_scheduler: MultiStepLR never comes to milestones 3, the run has 1 epochs",
        "param_scheduler: LinearLR never comes to end 500, the run has 4 iterations",
        "param_scheduler: LinearLR never begins, with begin=4, the run has 4 iterations",
        "param_scheduler: StepLR multiplies the rate by gamma=0, not above 0 and up to 1, the run has 1 epochs",
        "param_scheduler: CosineAnnealingLR rises again after T_max=2, the run has 4 iterations",
        "optim_wrapper.accumulative_counts=9: the run has 4 iterations, one step",
        "optim_wrapper.optimizer.lr is 0: nothing is learned",
        "optim_wrapper.optimizer.momentum is 1 or more: weights will grow without end",
        "CheckpointHook: interval=2 saves nothing, the run has 1 epochs",
        "ReduceOnPlateauLR: rule='less' is wrong for 'accuracy/top1': set rule='greater'",
    ]
    for schedule, reason in (
        ('type="OneCycleLR", eta_max=0.1, total_steps=3, by_epoch=False', "total_steps=3 are too few"),
        ('type="LinearLR", start_factor=0, by_epoch=False', "start_factor=0 is divided by"),
    ):
        assert reason in cpu_tools.refused("train", *arguments(schedule))
