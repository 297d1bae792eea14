"""The exit probe measures each exit and leaves no trace in training."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from kd_mm.registry import DATASETS

from ..helpers.digits import digits_run, run_log

IMAGES = 60  # validation images, in batches of unequal size


class TeacherCalls(Hook):
    """Counts the teacher's forward passes in each validation."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.calls: list[int] = []

    def before_train(self, runner: Runner) -> None:
        backbone = runner.model.teachers["teacher"].model.backbone
        backbone.register_forward_hook(self._count)

    def before_val(self, runner: Runner) -> None:
        self.calls.append(0)
        self.counting = True

    def after_val(self, runner: Runner) -> None:
        self.counting = False

    def _count(self, *_: Any) -> None:
        if getattr(self, "counting", False):
            self.calls[-1] += 1


def train(folder: Path, recipe: str = "mtkd_ssr", probe: bool = True, **options: Any) -> tuple[Runner, TeacherCalls]:
    given = {"teacher_exits.epochs": 1, **options} if recipe == "mtkd_ssr" else options
    validation = {"val_dataloader.batch_size": 25, "val_dataloader.dataset.indices": IMAGES}
    hooks = {"default_hooks.exit_probe": {"type": "kd_mm.ExitProbeHook"}} if probe else {}
    changes = {"train_cfg.max_epochs": 2, **validation, **hooks}
    runner, calls = digits_run(folder, recipe, options=given, samples=4, **changes), TeacherCalls()
    runner.register_hook(calls)
    runner.train()
    return runner, calls


def logged(runner: Runner) -> list[dict[str, float]]:
    """What each validation logged about exits."""
    lines = (Path(runner.log_dir) / "vis_data" / "scalars.json").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [
        {key: value for key, value in record.items() if key.startswith("exit/")}
        for record in records
        if "accuracy/top1" in record
    ]


def accuracies(network: Any, exits: Any) -> dict[str, float]:
    """Accuracy in percent of exits and own logits, by plain arithmetic on the network's own modules."""
    dataset = DATASETS.build({"type": "kd_mm.Digits", "split": "val", "indices": IMAGES})
    infos = [dataset.get_data_info(i) for i in range(IMAGES)]
    inputs = torch.stack([torch.from_numpy(info["img"]).permute(2, 0, 1).float() for info in infos])
    labels = torch.tensor([info["gt_label"] for info in infos])
    network.eval()
    backbone, found = network.backbone, {}
    with torch.no_grad():
        feature = backbone.stem((inputs - 77.6) / 81.1)
        for number, stage in enumerate((backbone.layer1, backbone.layer2, backbone.layer3), 1):
            feature = stage(feature)
            if str(number) in exits:
                found[f"stage{number}"] = exits[str(number)].eval()(feature)
        found["final"] = network.head.fc(feature.mean(dim=(2, 3)))
    return {name: 100 * float((logits.argmax(1) == labels).float().mean()) for name, logits in found.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runner, TeacherCalls]:
    return train(tmp_path_factory.mktemp("probed"))


def test_numbers_are_those_of_an_independent_evaluation(run):
    runner, _ = run
    distiller = runner.model
    student = accuracies(distiller.student, distiller.objective.exits)
    teacher = accuracies(distiller.teachers["teacher"].model, distiller.teachers["teacher"].exits)
    assert list(student) == list(teacher) == ["stage1", "stage2", "final"]
    expected = {f"exit/student_{part}": value for part, value in student.items()}
    expected |= {f"exit/teacher_{part}": value for part, value in teacher.items()}
    dataset = DATASETS.build({"type": "kd_mm.Digits", "split": "val", "indices": IMAGES})
    classes = torch.tensor([dataset.get_data_info(i)["gt_label"] for i in range(IMAGES)]).bincount()
    expected["exit/chance"] = 100 * int(classes.max()) / IMAGES
    assert logged(runner)[-1] == pytest.approx(expected, abs=1e-3)
    hub = runner.message_hub
    assert {key: hub.get_scalar(f"val/{key}").current() for key in expected} == pytest.approx(expected, abs=1e-3)


def test_every_validation_is_logged_and_runs_a_frozen_teacher_once(run):
    runner, _ = run
    assert [len(record) for record in logged(runner)] == [7, 7]
    text = run_log(runner)
    assert text.count("exit/student_stage1: ") == 2
    assert run[1].calls == [3, 0]


def test_training_goes_on_bit_for_bit_as_without_it(run, tmp_path):
    plain, calls = train(tmp_path, probe=False)
    assert calls.calls == [0, 0]
    assert not any("exit/" in key for key in plain.message_hub.log_scalars)
    states = [runner.model.state_dict() for runner in (run[0], plain)]
    assert list(states[0]) == list(states[1])
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_exits_that_are_still_learning_are_probed_each_time(tmp_path):
    runner, calls = train(tmp_path, **{"teacher_exits.mode": "online"})
    assert calls.calls == [3, 3]
    distiller = runner.model
    teacher = accuracies(distiller.teachers["teacher"].model, distiller.objective.teacher_exits["teacher"])
    last = {key: value for key, value in logged(runner)[-1].items() if key.startswith("exit/teacher_")}
    assert last == pytest.approx({f"exit/teacher_{part}": value for part, value in teacher.items()}, abs=1e-3)


def test_without_exits_the_networks_own_logits_are_logged(tmp_path):
    runner, _ = train(tmp_path, "kd")
    assert [sorted(record) for record in logged(runner)] == [
        ["exit/chance", "exit/student_final", "exit/teacher_final"]
    ] * 2
