"""A plain run whose loss runs away ends at once, whatever the rest of its schedule."""

from pathlib import Path

import pytest

from ..helpers.tools import Tools

RUN = ["train", "kd_mm::quickstart/student_digits.py", "--cfg-options", "train_dataloader.dataset.indices=640"]


@pytest.mark.parametrize(
    ("option", "iteration", "advice"),
    [
        ("optim_wrapper.optimizer.lr=1e30", None, "with a lower learning rate"),
        ("model.head.loss.loss_weight=1e39", 0, "look at the data of the first step"),
    ],
)
def test_a_plain_run_ends_at_the_first_loss_that_is_not_finite(
    cpu_tools: Tools, tmp_path: Path, option: str, iteration: int | None, advice: str
) -> None:
    ended = cpu_tools.run(*RUN, option, "--work-dir", tmp_path / "run")
    assert ended.status == 2
    (line,) = ended.err.strip().splitlines()
    assert line.startswith(f"error: iteration {'' if iteration is None else iteration}")
    assert "loss is not finite (loss); training stops" in line
    assert advice in line
    assert not list((tmp_path / "run").glob("*.pth"))
