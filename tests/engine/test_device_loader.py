"""Training images on the device: the ordinary loader's batches, but for the draws, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from kd_mm.apis.recipes import config_root
from kd_mm.engine.device_loader import DeviceImages

from ..devices import DEVICES
from ..helpers.cifar_files import write_cifar100
from ..helpers.digits import digits_run
from ..helpers.errors import assert_refused
from ..helpers.tools import Tools

CPU = torch.device("cpu")
DIGITS = config_root() / "quickstart" / "student_digits.py"
SHORT = ("train_cfg.max_epochs=1", "randomness.seed=0", "default_hooks.logger.interval=1")
PACK = {"type": "PackInputs"}


def loader(root: Path, pipeline: list[Any], **dataset: Any) -> Any:
    """Build the ordinary loader of a small CIFAR-100 that is shuffled by a seed."""
    if not root.joinpath("cifar-100-python").is_dir():
        write_cifar100(root)
    init_default_scope("mmpretrain")
    config = Config.fromfile(config_root() / "_base_" / "datasets" / "cifar100.py").train_dataloader
    config.update(num_workers=0, persistent_workers=False)
    config.dataset.update(data_root=str(root), allow_partial=True, pipeline=pipeline, **dataset)
    return Runner.build_dataloader(config, seed=4)


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_is_the_ordinary_one_where_nothing_is_random(tmp_path: Path, device: str) -> None:
    """Images to the bit, also through the model's preprocessor; labels and metainfo; the order of the images."""
    ordinary = loader(tmp_path, [{"type": "Resize", "scale": (20, 24)}, PACK])
    batches = DeviceImages(ordinary.dataset, torch.device(device), 0.5, fresh_samples=False).loader(ordinary)
    assert len(batches) == len(ordinary)
    settings = Config.fromfile(config_root() / "_base_" / "datasets" / "cifar100.py").data_preprocessor
    preprocess = Runner.build_model(
        None,
        {
            "type": "ImageClassifier",
            "backbone": {"type": "kd_mm.CIFARResNet", "depth": 8, "widths": (4, 4, 4, 4)},
            "data_preprocessor": settings,
        },
    ).data_preprocessor
    for found, expected in zip(batches, ordinary, strict=True):
        assert found["inputs"].dtype == torch.uint8
        assert found["inputs"].shape[1:] == (3, 24, 20)
        assert found["inputs"].cpu().equal(expected["inputs"])
        for own, other in zip(found["data_samples"], expected["data_samples"], strict=True):
            assert own.metainfo == other.metainfo
            assert own.gt_label.cpu().equal(other.gt_label)
        assert preprocess(found, True)["inputs"].equal(preprocess(expected, True)["inputs"])


def test_samples_are_made_once_and_the_seed_decides_the_draws(tmp_path: Path) -> None:
    ordinary = loader(tmp_path, [PACK])
    batches = DeviceImages(ordinary.dataset, CPU, 0.5, fresh_samples=False).loader(ordinary)
    first, second = ({id(sample) for batch in batches for sample in batch["data_samples"]} for _ in range(2))
    assert len(first) == 400
    assert first == second
    ordinary = loader(tmp_path, [{"type": "RandomCrop", "crop_size": 32, "padding": 4}, PACK])
    batches = DeviceImages(ordinary.dataset, CPU, 0.5, fresh_samples=False).loader(ordinary)

    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([batch["inputs"] for batch in batches])

    assert draw(1).equal(draw(1))
    assert not draw(1).equal(draw(2))


def test_a_training_by_the_command_line(tools: Tools) -> None:
    """A distillation whose teacher is prepared, too."""
    tools.train(DIGITS, "--work-dir", tools.scratch / "teacher", "--device-data", "--cfg-options", *SHORT)
    teacher = ["--teacher", DIGITS, "--teacher-checkpoint", tools.scratch / "teacher" / "epoch_1.pth"]
    options = ["--cfg-options", *SHORT, "default_hooks.teacher_check.min_score=0"]
    ended = tools.train(DIGITS, "--distiller", "mtkd_ssr", *teacher, "--device-data", "--work-dir", "run", *options)
    (log,) = (tools.folder / "run").glob("*/*.log")
    assert "200 images, 0.1 MiB, are on cpu" in log.read_text()
    assert (tools.folder / "run" / "epoch_1.pth").is_file(), ended.out


@pytest.mark.parametrize("recipe", ["mtkd_ssr", "crd"])
@pytest.mark.parametrize("augment", [False, True])
def test_no_step_changes_the_data_samples(tmp_path: Path, recipe: str, augment: bool) -> None:
    """With Mixup the model writes soft labels into them, so that they are made anew for each batch."""
    changes: dict[str, Any] = {"default_hooks.device_loader.type": "kd_mm.DeviceLoader"}
    if augment:
        changes["model.student.train_cfg"] = {"augments": {"type": "Mixup", "alpha": 0.8}}
    runner = digits_run(tmp_path / "run", recipe, **changes)
    runner.train()
    images = runner.train_dataloader.dataset
    assert runner.iter == 3
    labels = runner.train_dataloader.dataset.dataset.get_gt_labels()
    for sample, label in zip(images.__getitems__(range(60))["data_samples"], labels, strict=True):
        assert "gt_score" not in sample
        assert sample.gt_label.tolist() == [label]


NOISE = {"type": "ColorJitter", "brightness": 0.4}
FLIP = {"type": "RandomFlip", "prob": 0.5}


def test_pipelines_and_images_that_cannot_be_reproduced_are_refused(tmp_path: Path) -> None:
    for pipeline, problem in (
        ([FLIP, NOISE, PACK], "step 2 of the pipeline of train_dataloader, ColorJitter"),
        ([FLIP, {"type": "Resize", "scale": 16}, PACK], "step 2 of the pipeline of train_dataloader, Resize"),
        ([PACK, FLIP], "step 1 of the pipeline of train_dataloader, PackInputs"),
        ([{"type": "RandomCrop", "crop_size": 48}, PACK], "RandomCrop.*larger than the padded images, 32x32"),
        ([{"type": "Normalize", "mean": [0.0] * 3, "std": [1.0] * 3}, PACK], "step 1 .*Normalize"),
    ):
        ordinary = loader(tmp_path, pipeline)
        assert_refused(problem, DeviceImages, ordinary.dataset, CPU, 0.5, fresh_samples=False)
    ordinary = loader(tmp_path, [PACK])
    data = ordinary.dataset.load_data_list()
    data[3]["img"] = data[3]["img"][:20]
    ordinary.dataset.data_list, ordinary.dataset.serialize_data = data, False
    with pytest.raises(ValueError, match="image 0 has 32x32 pixels, image 3 20x32: begin the pipeline"):
        DeviceImages(ordinary.dataset, CPU, 0.5, fresh_samples=False)


def test_refusals_end_a_training_in_one_line(tools: Tools) -> None:
    small = "default_hooks.device_loader.memory_fraction=1e-12"
    line = tools.refused("train", DIGITS, "--device-data", "--cfg-options", *SHORT, small)
    assert "the images need 153,600 bytes, more than 1e-12 of the " in line
