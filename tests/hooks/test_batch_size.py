"""Images of a step count accumulated batches, in the warning and where the learning rate is scaled; plain runs too."""

from pathlib import Path

import pytest

from ..helpers.tools import Tools

RUN = ["kd_mm::quickstart/student_digits.py", "--cfg-options", "train_dataloader.dataset.indices=32"]
RUN += ["val_dataloader.dataset.indices=20", "train_dataloader.batch_size=8", "train_cfg.max_epochs=1"]


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
    out = cpu_tools.train(*RUN, *options, "--work-dir", tmp_path / "plain").out
    assert ("a step has" in out) == (warning is not None)
    assert warning is None or warning in out
    out = cpu_tools.train(*RUN, *options, "--work-dir", tmp_path / "scaled", "--auto-scale-lr").out
    assert "a step has" not in out
    assert f"Scaling the original LR by {ratio}." in out
