"""Losses learn how many samples the training data has; a bank of all samples survives a resume bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kd_mm.hooks.distill_hook import count_samples

from ..helpers.compare import differences
from ..helpers.digits import digits_run

SAMPLES = 3  # of each of the ten classes


def trained(folder: Path, **more: Any) -> dict[str, Any]:
    data = {
        "type": "kd_mm.Digits",
        "split": "train",
        "samples_per_class": SAMPLES,
        "pipeline": [{"type": "PackInputs"}],
    }
    options = {"losses.contrast.num_negatives": 8}
    more |= {"train_cfg.max_epochs": 2, "default_hooks.checkpoint.interval": 1, "custom_hooks": [{"type": "EMAHook"}]}
    more |= {"train_dataloader.dataset": {"_delete_": True, "type": "RepeatDataset", "times": 2, "dataset": data}}
    digits_run(folder, "crd", None, options, **more).train()
    return torch.load(folder / "epoch_2.pth", weights_only=False)


def test_a_bank_is_as_large_as_the_data_and_resumes_exactly(tmp_path: Path) -> None:
    full = trained(tmp_path / "full", **{"default_hooks.checkpoint.max_keep_ckpts": 2})
    bank = {key: value for key, value in full["state_dict"].items() if ".bank." in key}
    assert bank["distill.losses.contrast.bank.student"].shape == (10 * SAMPLES, 128)
    assert sorted(bank["distill.losses.contrast.bank.labels"].tolist()) == sorted(SAMPLES * list(range(10)))
    resumed = trained(tmp_path / "resumed", load_from=str(tmp_path / "full" / "epoch_1.pth"), resume=True)
    for part in ("state_dict", "ema_state_dict", "optimizer"):
        assert differences(full[part], resumed[part], part) == []


def test_joined_data_sets_have_no_size() -> None:
    class Data(torch.utils.data.Dataset):
        metainfo: dict[str, Any] = {}

        def __len__(self) -> int:
            return 7

        def full_init(self) -> None:
            """Nothing is lazy here."""

    data = Data()
    assert count_samples(data) == 7
    assert count_samples(torch.utils.data.Subset(data, [1, 2])) == 7
    assert count_samples(torch.utils.data.ConcatDataset([data, data])) is None
