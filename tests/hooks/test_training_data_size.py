"""Losses learn how many samples the training data has; a bank of all samples survives a resume bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

import kd_mm  # noqa: F401 - registers everything
from kd_mm.hooks.distill_hook import count_samples

from ..distillers.conftest import CLASSES, classifier, recipe
from ..helpers.compare import differences

SAMPLES = 15


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for k in range(SAMPLES):
        path = folder / f"class{k % CLASSES}" / f"{k}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return folder


def config(images: Path, work_dir: Path, **more: Any) -> Config:
    own = recipe("crd", **{"losses.contrast.num_negatives": 8})
    preprocessor = classifier()["data_preprocessor"]
    student = {key: value for key, value in classifier().items() if key != "data_preprocessor"}
    data = {
        "type": "CustomDataset",
        "data_root": str(images),
        "pipeline": [{"type": "LoadImageFromFile"}, {"type": "RandomFlip", "prob": 0.5}, {"type": "PackInputs"}],
    }
    teacher = {"config": classifier(14, width=16), "random_weights": True}
    hooks = {"distill": {"type": "kd_mm.DistillHook"}, "exact_resume": {"type": "kd_mm.ExactResumeHook"}}
    return Config(
        {
            "default_scope": "mmpretrain",
            "work_dir": str(work_dir),
            "data_preprocessor": preprocessor,
            "model": {
                "type": "kd_mm.Distiller",
                "student": student,
                "teacher": teacher,
                "recipe": own,
                "input_size": 16,
            },
            "train_dataloader": {
                "batch_size": 5,
                "num_workers": 0,
                "sampler": {"type": "DefaultSampler", "shuffle": True},
                "dataset": {"type": "RepeatDataset", "times": 2, "dataset": data},
            },
            "train_cfg": {"by_epoch": True, "max_epochs": 2},
            "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.01}},
            "default_hooks": {**hooks, "checkpoint": {"type": "CheckpointHook", "interval": 1}},
            "custom_hooks": [{"type": "EMAHook"}],
            "randomness": {"seed": 1},
            **more,
        }
    )


def trained(settings: Config) -> dict[str, Any]:
    torch.manual_seed(0)  # the teacher's weights come from a private state, the student's from the seed of the run
    Runner.from_cfg(settings).train()
    return torch.load(Path(settings.work_dir) / "epoch_2.pth", weights_only=False)


def test_a_bank_is_as_large_as_the_data_and_resumes_exactly(images: Path, tmp_path: Path) -> None:
    full = trained(config(images, tmp_path / "full"))
    bank = {key: value for key, value in full["state_dict"].items() if ".bank." in key}
    assert bank["distill.losses.contrast.bank.student"].shape == (SAMPLES, 128)
    assert sorted(bank["distill.losses.contrast.bank.labels"].tolist()) == sorted(k % CLASSES for k in range(SAMPLES))
    middle = str(tmp_path / "full" / "epoch_1.pth")
    resumed = trained(config(images, tmp_path / "resumed", load_from=middle, resume=True))
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
