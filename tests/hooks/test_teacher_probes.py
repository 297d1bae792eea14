"""The teachers' probes: rated on held-out training images, kept, shown, and without a trace in teachers or training."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

import kd_mm  # noqa: F401 - registers everything
from kd_mm.apis.recipes import config_root
from kd_mm.hooks.linear_probes import held_out_parts, nearest_rate, pooled, rate
from kd_mm.hooks.teacher_probes import DEFAULTS, checked
from kd_mm.registry import DATASETS

RUNS = itertools.count()
SAMPLES = 12  # images a class, of 10 classes


def prepared(folder: Path, names: tuple[str, ...] = ("one", "two"), **changes: Any) -> Runner:
    """A run over the digits with the recipe gpac; teachers that share their name's first letter share their weights."""
    torch.set_num_threads(1)
    config = Config.fromfile(config_root() / "quickstart" / "kd_teacher_student_digits.py")
    teacher = Config.fromfile(config_root() / "quickstart" / "teacher_digits.py")
    files = {}
    for name in names:
        files[name] = folder / f"{name[0]}.pth"
        if not files[name].is_file():
            torch.manual_seed(ord(name[0]))
            folder.mkdir(parents=True, exist_ok=True)
            network = Runner.build_model(None, {**teacher.model, "data_preprocessor": teacher.data_preprocessor})
            torch.save({"state_dict": network.state_dict()}, files[name])
    whole = {**teacher.model, "data_preprocessor": teacher.data_preprocessor}
    config.model.teacher = {name: {"config": whole, "checkpoint": str(files[name])} for name in names}
    fragment = Config.fromfile(config_root() / "_base_" / "recipes" / "gpac.py")
    config.model.recipe = fragment.gpac
    config.default_hooks.update(fragment.kd_hooks)
    config.merge_from_dict(
        {
            "work_dir": str(folder),
            "experiment_name": f"probes_{next(RUNS)}",
            "randomness": {"seed": 1},
            "train_cfg.max_epochs": 1,
            "train_dataloader.batch_size": 20,
            "train_dataloader.dataset.samples_per_class": SAMPLES,
            "val_dataloader.dataset.indices": 20,
            "default_hooks.teacher_check.min_score": 0.0,
            "model.recipe.losses.attention.probes": {"epochs": 3, "lr": 0.05},
            **changes,
        }
    )
    return Runner.from_cfg(config)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runner, dict[str, Any]]:
    runner = prepared(tmp_path_factory.mktemp("gpac"))
    before = {
        name: {key: value.clone() for key, value in teacher.model.state_dict().items()}
        for name, teacher in runner.model.teachers.items()
    }
    runner.train()
    return runner, before


def test_teachers_stay_as_they_are(trained: tuple[Runner, dict[str, Any]]) -> None:
    runner, before = trained
    for name, teacher in runner.model.teachers.items():
        assert not teacher.model.training
        for key, value in teacher.model.state_dict().items():
            assert torch.equal(value, before[name][key]), key
            assert value.grad is None


def test_table_is_logged_kept_and_drawn(trained: tuple[Runner, dict[str, Any]]) -> None:
    runner, _ = trained
    folder, loss = Path(runner.work_dir), runner.model.losses["attention"]
    log = next(Path(runner.log_dir).glob("*.log")).read_text()
    assert "Probes: accuracy (%) on held-out training images" in log
    rows = {name: json.loads(next(folder.glob(f"teacher_probes_{name}_*.json")).read_text()) for name in ("one", "two")}
    for i in (1, 2, 3):
        assert loss.shares[i] == {max(rows, key=lambda name: (rows[name][f"stage{i}"], rows[name]["final"])): 1.0}
        assert all(f"{100 * row[f'stage{i}']:.2f}" in log for row in rows.values())
    assert Image.open(folder / "teacher_probes_attention.png").size[0] > 300


def test_row_by_plain_arithmetic(trained: tuple[Runner, dict[str, Any]]) -> None:
    """The images are the training set's, unaugmented, and the rating is that of the probes on what was held out."""
    runner, _ = trained
    network = runner.model.teachers["one"].model
    dataset = DATASETS.build({"type": "kd_mm.Digits", "split": "train", "samples_per_class": SAMPLES})
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    inputs = torch.stack([torch.from_numpy(info["img"]).permute(2, 0, 1).float() for info in infos])
    labels = torch.tensor([info["gt_label"] for info in infos])
    features, maps = {}, network.backbone.stem((inputs - 77.6) / 81.1).detach()
    for number, stage in enumerate((network.backbone.layer1, network.backbone.layer2, network.backbone.layer3), 1):
        maps = stage(maps).detach()
        features[number] = maps.mean(dim=(2, 3))
    options = {**DEFAULTS, "epochs": 3, "lr": 0.05}
    masks = held_out_parts(labels, 0.1, None, 0)
    expected = rate(features, labels, 10, masks, options, torch.device("cpu"))
    kept = json.loads(next(Path(runner.work_dir).glob("teacher_probes_one_*.json")).read_text())
    assert {i: kept[f"stage{i}"] for i in (1, 2, 3)} == pytest.approx(expected, abs=0.11)
    right = network.head.fc(features[3]).argmax(dim=1) == labels
    assert kept["final"] == pytest.approx(float(right[masks[0]].float().mean()))


def test_later_runs_find_the_rows_and_equal_teachers_are_settled_by_order(
    trained: tuple[Runner, dict[str, Any]],
) -> None:
    runner, _ = trained
    folder = Path(runner.work_dir)
    found = {path: path.stat().st_mtime_ns for path in folder.glob("teacher_probes_*.json")}
    again = prepared(folder, ("one", "two", "other"))
    again.train()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("teacher_probes_*.json")}
    assert {path: kept[path] for path in found} == found
    assert len(kept) == len(found) + 1
    # "other" has the weights of "one": the choice among three gives the features that it gave among two.
    assert again.model.losses["attention"].shares == runner.model.losses["attention"].shares


def test_unknown_options_and_memory_are_told() -> None:
    with pytest.raises(ValueError, match="probes has no option 'epoch', did you mean 'epochs'"):
        checked({"epoch": 3})
    with pytest.raises(ValueError, match="choose 'gap', 'pool4' or 'flat'"):
        checked({"input": "max"})
    with pytest.raises(ValueError, match="held_out=1.5 must be between 0 and 1"):
        checked({"held_out": 1.5})


def test_too_many_features_are_told_before_training(tmp_path: Path) -> None:
    probes = {"input": "flat", "max_gigabytes": 1e-6}
    with pytest.raises(ValueError, match=r"lower probes.max_images, or set probes.input='gap'"):
        prepared(tmp_path, **{"model.recipe.losses.attention.probes": probes}).train()


# -- parts ---------------------------------------------------------------------------------------------------------


def test_held_out_parts_are_balanced_and_repeatable() -> None:
    labels = torch.arange(100) % 5
    (mask,) = held_out_parts(labels, 0.1, None, 0)
    assert torch.bincount(labels[mask]).tolist() == [2] * 5
    assert torch.equal(mask, held_out_parts(labels, 0.1, None, 0)[0])
    assert not torch.equal(mask, held_out_parts(labels, 0.1, None, 1)[0])
    folds = held_out_parts(labels, 0.1, 4, 0)
    assert torch.equal(torch.stack(folds).sum(dim=0), torch.ones(100, dtype=torch.int64))
    with pytest.raises(ValueError, match="leave nothing to hold out"):
        held_out_parts(torch.arange(5), 0.1, None, 0)


def test_probes_find_linear_classes_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 4
    good = torch.nn.functional.one_hot(labels, 4) * 3.0 + torch.randn(200, 4, generator=generator) * 0.3
    noise = torch.randn(200, 4, generator=generator)
    options = {**DEFAULTS, "epochs": 30, "lr": 0.05}
    masks = held_out_parts(labels, 0.2, None, 0)
    found = rate({1: noise, 2: good}, labels, 4, masks, options, torch.device("cpu"))
    assert found[2] == 1.0
    assert found[1] < 0.6
    assert rate({1: noise, 2: good}, labels, 4, masks, options, torch.device("cpu")) == found


def test_retrieval_rates_features_without_a_probe(tmp_path: Path) -> None:
    features = torch.tensor([[1.0, 0.1], [2.0, 0.0], [0.0, 3.0], [0.1, 1.0], [1.0, 0.9], [5.0, 1.0]])
    labels, mask = torch.tensor([0, 0, 1, 1, 1, 0]), torch.tensor([True, False, False, True, True, False])
    # The nearest by angle: of the first the second, of the fourth the third, of the fifth the last, which is wrong.
    assert nearest_rate({1: features}, labels, [mask]) == {1: pytest.approx(2 / 3)}
    assert nearest_rate({1: features}, labels, [mask, ~mask]) == {1: pytest.approx((2 / 3 + 1) / 2)}
    with pytest.raises(ValueError, match="metric='mAP' is unknown; choose 'accuracy' or 'retrieval'"):
        checked({"metric": "mAP"})
    runner = prepared(tmp_path, **{"model.recipe.losses.attention.probes": {"metric": "retrieval"}})
    runner.train()
    kept = json.loads(next(tmp_path.glob("teacher_probes_one_*.json")).read_text())
    assert set(kept) == {"stage1", "stage2", "stage3", "final"}
    assert all(10 * value == pytest.approx(round(10 * value)) for value in kept.values())  # of ten held-out images


def test_what_probes_read() -> None:
    feature = torch.rand(2, 3, 8, 8).to(torch.bfloat16)
    torch.testing.assert_close(pooled(feature, "gap"), feature.float().mean((2, 3)))
    assert pooled(feature, "pool4").shape == (2, 48)
    assert torch.equal(pooled(feature, "flat"), feature.float().flatten(1))
