"""Features of teachers read once over the data: GPAC's probes and the relations of classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from torch import Tensor

from kd_mm.preparation import Probing
from kd_mm.preparation.features import class_relations, held_out_splits, pool_feature, probe_score
from kd_mm.registry import DATASETS

from ..helpers.digits import digits_run, run_log
from ..helpers.errors import assert_refused
from ..helpers.waves import wave

OPTIONS = Probing.defaults
SAMPLES = 12  # images a class, of 10 classes
SEEDS = {"one": 0, "two": 1, "other": 0}


def prepared(folder: Path, names: tuple[str, ...] = ("one", "two"), **probes: Any) -> Runner:
    options = {"losses.attention.probes": {"epochs": 3, "lr": 0.05, **probes}}
    return digits_run(folder, "gpac", {name: SEEDS[name] for name in names}, options, SAMPLES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runner, dict[str, Any]]:
    runner = prepared(tmp_path_factory.mktemp("gpac"))
    before = {
        name: {key: value.clone() for key, value in teacher.model.state_dict().items()}
        for name, teacher in runner.model.teachers.items()
    }
    runner.train()
    return runner, before


def scores(folder: Path, teacher: str) -> dict[str, float]:
    (file,) = folder.glob(f"teacher_probes_{teacher}_*.pth")
    return torch.load(file, weights_only=True)["state_dict"]


def test_scores_are_logged_and_stored_and_teachers_stay_as_they_are(trained: tuple[Runner, dict[str, Any]]) -> None:
    runner, _ = trained
    folder, loss = Path(runner.work_dir), runner.model.losses["attention"]
    log = run_log(runner)
    rows = {name: scores(folder, name) for name in ("one", "two")}
    for i in (1, 2, 3):
        best = max(rows, key=lambda name: (rows[name][f"stage{i}"], rows[name]["final"]))
        assert loss.shares[i] == {best: 1.0}
        assert f"attention: stage {i} is guided by {best} (100%)" in log
        assert all(f"stage{i}: {row[f'stage{i}']:.1%}" in log for row in rows.values())
    runner, before = trained
    for name, teacher in runner.model.teachers.items():
        assert not teacher.model.training
        for key, value in teacher.model.state_dict().items():
            assert torch.equal(value, before[name][key]), key
            assert value.grad is None


def test_scores_by_plain_arithmetic(trained: tuple[Runner, dict[str, Any]]) -> None:
    """The images are the training set's, without augmentation, and the scores those of what was held out."""
    runner, _ = trained
    network = runner.model.teachers["one"].model
    dataset = DATASETS.build({"type": "kd_mm.Digits", "split": "train", "samples_per_class": SAMPLES})
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    inputs = torch.stack([torch.from_numpy(info["img"]).permute(2, 0, 1).float() for info in infos])
    labels = torch.tensor([info["gt_label"] for info in infos])
    splits = held_out_splits(labels, 0.1, None, 0)
    found, maps = scores(Path(runner.work_dir), "one"), network.backbone.stem((inputs - 77.6) / 81.1).detach()
    for number, stage in enumerate((network.backbone.layer1, network.backbone.layer2, network.backbone.layer3), 1):
        maps = stage(maps).detach()
        expected = probe_score(maps.mean(dim=(2, 3)), labels, splits, {**OPTIONS, "epochs": 3, "lr": 0.05})
        assert found[f"stage{number}"] == pytest.approx(expected, abs=0.11)
    right = (network.head.fc(maps.mean(dim=(2, 3))).argmax(dim=1) == labels).float()
    assert found["final"] == pytest.approx(float(right[splits[0][1]].mean()))


def test_another_training_set_is_probed_anew_and_the_same_is_found(trained: tuple[Runner, dict[str, Any]]) -> None:
    folder = Path(trained[0].work_dir)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("teacher_probes_*.pth")}
    # "other" has the weights of "one": the choice among three gives the features that it gave among two.
    again = prepared(folder, ("one", "two", "other"))
    again.train()
    after = {path: path.stat().st_mtime_ns for path in folder.glob("teacher_probes_*.pth")}
    assert {path: after[path] for path in before} == before
    assert len(after) == len(before) + 1
    assert again.model.losses["attention"].shares == trained[0].model.losses["attention"].shares


def test_wrong_options_end_in_one_line_before_training(tmp_path: Path) -> None:
    wrong = {
        "probes has no option 'epoch', did you mean 'epochs'": {"epoch": 3},
        "probes.input='max' is unknown; choose one of 'gap', 'pool4', 'flat'": {"input": "max"},
        "probes.metric='mAP' is unknown": {"metric": "mAP"},
        "held_out=1.5 must be between 0 and 1": {"held_out": 1.5},
        "lower probes.max_images, or set probes.input='gap'": {"input": "flat", "max_gigabytes": 1e-6},
    }
    for line, probes in wrong.items():
        with pytest.raises(ValueError, match=line):
            prepared(tmp_path / "run", **probes).train()


# -- parts ---------------------------------------------------------------------------------------------------------


def test_held_out_parts_are_balanced_and_repeatable() -> None:
    labels = torch.arange(100) % 5
    ((train, held_out),) = held_out_splits(labels, 0.1, None, 0)
    assert torch.bincount(labels[held_out]).tolist() == [2] * 5
    assert sorted([*train, *held_out]) == list(range(100))
    assert (held_out == held_out_splits(labels, 0.1, None, 0)[0][1]).all()
    assert (held_out != held_out_splits(labels, 0.1, None, 1)[0][1]).any()
    folds = held_out_splits(labels, 0.1, 4, 0)
    assert sorted(i for _, part in folds for i in part) == list(range(100))
    few = torch.tensor([0, 0, 0, 1, 1, 2])  # at least one of each class, and never the only one
    assert few[held_out_splits(few, 0.1, None, 0)[0][1]].tolist() == [0, 1]
    assert_refused("leave nothing to hold out", held_out_splits, torch.arange(5), 0.1, None, 0)


def test_probes_find_linear_classes_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 4
    good = torch.nn.functional.one_hot(labels, 4) * 3.0 + torch.randn(200, 4, generator=generator) * 0.3
    noise = torch.randn(200, 4, generator=generator)
    options = {**OPTIONS, "epochs": 30, "lr": 0.05}
    splits = held_out_splits(labels, 0.2, None, 0)
    assert probe_score(good, labels, splits, options) == 1.0
    assert probe_score(noise, labels, splits, options) < 0.6
    assert probe_score(noise, labels, splits, options) == probe_score(noise, labels, splits, options)


def test_retrieval_scores_features_without_a_probe(tmp_path: Path) -> None:
    feature = torch.tensor([[1.0, 0.1], [2.0, 0.0], [0.0, 3.0], [0.1, 1.0], [1.0, 0.9], [5.0, 1.0]])
    labels, options = torch.tensor([0, 0, 1, 1, 1, 0]), {**OPTIONS, "metric": "retrieval"}
    parts = np.array([0, 3, 4]), np.array([1, 2, 5])
    # The nearest by angle: of the first the second, of the fourth the third, of the fifth the last, which is wrong.
    assert probe_score(feature, labels, [(parts[1], parts[0])], options) == pytest.approx(2 / 3)
    assert probe_score(feature, labels, [parts, parts[::-1]], options) == pytest.approx((2 / 3 + 1) / 2)
    runner = prepared(tmp_path / "run", metric="retrieval")
    runner.train()
    found = scores(tmp_path / "run", "one")
    assert set(found) == {"stage1", "stage2", "stage3", "final"}
    assert all(12 * value == pytest.approx(round(12 * value)) for value in found.values())  # of 12 held-out images


def test_what_probes_read() -> None:
    feature = torch.rand(2, 3, 8, 8).to(torch.bfloat16)
    torch.testing.assert_close(pool_feature(feature, "gap"), feature.float().mean((2, 3)))
    assert pool_feature(feature, "pool4").shape == (2, 48)
    assert torch.equal(pool_feature(feature, "flat"), feature.float().flatten(1))


def cka(one: Tensor, other: Tensor) -> float:
    """Return the linear CKA of two sets of features ``(n, D)`` by their covariances."""
    one, other = one - one.mean(dim=0), other - other.mean(dim=0)
    return float((other.T @ one).norm() ** 2 / ((one.T @ one).norm() * (other.T @ other).norm()))


def test_relations_are_the_linear_cka_of_every_two_classes() -> None:
    features, labels = wave(3, 4, 5, pace=1.3).float(), torch.arange(3).repeat_interleave(4)
    relations = class_relations(features.flatten(0, 1), labels, 3, 500)
    public = [0.8965877674392198, 0.8546656941519521, 0.8961279745995495]  # JiamingLv/WKD
    assert [float(relations[pair]) for pair in ((0, 1), (0, 2), (1, 2))] == pytest.approx(public, abs=1e-5)
    assert relations.diagonal().tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    few = class_relations(features.flatten(0, 1), labels, 3, 3)
    assert float(few[0, 2]) == pytest.approx(cka(features[0, :3], features[2, :3]), abs=1e-5)
    # A smaller class repeats its images.
    small = class_relations(features.flatten(0, 1)[:-1], labels[:-1], 3, 500)
    assert float(small[0, 2]) == pytest.approx(cka(features[0], features[2, [0, 1, 2, 0]]), abs=1e-5)
    features, labels = wave(7, 5), torch.tensor([0, 0, 0, 2, 2, 2, 1])
    relations = class_relations(features, labels, 4, 500)
    assert float(relations[0, 2]) == pytest.approx(cka(features[:3], features[3:6]), abs=1e-5)
    relations[0, 2] = relations[2, 0] = 0.0
    torch.testing.assert_close(relations, torch.eye(4))


def test_a_run_relates_the_classes_before_its_first_step_and_once(tmp_path: Path) -> None:
    costs = []
    for name in ("first", "second"):
        options = {"default_hooks.prepare_teachers.cache_dir": str(tmp_path / "shared")}
        runner = digits_run(tmp_path / name, "wkd", samples=4, **options)
        runner.train()
        log = run_log(runner)
        assert "relations of teacher 'teacher', linear CKA of two classes: mean: " in log
        assert "loss_wkd_logits" in log
        assert "loss_wkd_features" in log
        costs.append(runner.model.losses["wkd_logits"].cost)
    assert len(list((tmp_path / "shared").glob("teacher_relations_teacher_*.pth"))) == 1
    assert torch.equal(*costs)
    assert costs[0].shape == (10, 10)
    assert float(costs[0].diagonal().max()) < 1e-6
    assert float(costs[0][~torch.eye(10, dtype=torch.bool)].min()) > 1e-4
