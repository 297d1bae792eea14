"""The teachers' exits: trained once on a frozen teacher, stored, found again, and the same after a kill."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import Runner

from kd_mm.preparation import ExitTraining
from kd_mm.quickstart.digits import Digits

from ..helpers.compare import same
from ..helpers.digits import digits_run, run_log
from ..helpers.errors import assert_refused

OPTIONS = {"teacher_exits.epochs": 2}


def prepared(folder: Path, options: dict[str, Any] | None = None, **more: Any) -> Runner:
    runner = digits_run(folder, "mtkd_ssr", options={**OPTIONS, **(options or {})}, **more)
    runner.train()
    return runner


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("teacher_exits_*.pth"))


def stored(folder: Path) -> dict[str, Any]:
    (file,) = files(folder)
    return torch.load(file, weights_only=True)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return prepared(tmp_path_factory.mktemp("exits"))


def test_the_teacher_gets_frozen_trained_exits(first: Runner) -> None:
    teacher, found = first.model.teachers["teacher"], stored(Path(first.work_dir))
    assert same(teacher.exits.state_dict(), found["state_dict"])
    assert not any(parameter.requires_grad for parameter in teacher.exits.parameters())
    assert not teacher.exits.training
    untrained = digits_run(Path(first.work_dir) / "untrained", "mtkd_ssr", options=OPTIONS).model.teachers["teacher"]
    assert not same(untrained.exits.state_dict(), found["state_dict"])
    assert same(untrained.model.state_dict(), teacher.model.state_dict())
    log = run_log(first)
    assert "training the exits of teacher 'teacher' for 2 epochs" in log
    scores = ", ".join(f"{name}: {score:.1%} (chance {found['chance']:.1%})" for name, score in found["scores"].items())
    assert f"exits of teacher 'teacher', accuracy on the validation data: {scores}" in log
    assert not list(Path(first.work_dir).glob("*.partial.pth"))


def test_a_second_run_finds_them_and_trains_as_the_first(first: Runner) -> None:
    folder = Path(first.work_dir)
    before = files(folder)[0].stat().st_mtime_ns
    weights = {key: value.clone() for key, value in first.model.state_dict().items()}
    earlier = run_log(first)
    again = prepared(folder)
    assert [file.stat().st_mtime_ns for file in files(folder)] == [before]
    # Runs of one folder that begin within a second share their log file.
    assert "training the exits" not in run_log(again).removeprefix(earlier)
    assert same(again.model.state_dict(), weights)


def test_what_they_depend_on_has_them_trained_anew(first: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    class TrainedAnewError(Exception):
        """In place of the training, which takes long."""

    def run(self: ExitTraining, *_: Any) -> None:
        raise TrainedAnewError

    monkeypatch.setattr(ExitTraining, "run", run)
    folder, changes = (
        Path(first.work_dir),
        (
            {"teachers": {"teacher": 1}},
            {"options": {"teacher_exits.lr": 0.01}},
            {"options": {"exits.type": "kd_mm.MirrorExit"}},
            {"model.student.head.loss.class_weight": [1.0] * 9 + [2.0]},
            {"train_dataloader.batch_size": 10},
            {"samples": 5},
            {"data_preprocessor.std": [80.0] * 3},
        ),
    )
    for change in changes:
        with pytest.raises(TrainedAnewError):
            prepared(folder, **change)
    with monkeypatch.context() as corrected:  # labels, behind the same config
        listed = Digits.load_data_list
        corrected.setattr(Digits, "load_data_list", lambda self: [{**each, "gt_label": 0} for each in listed(self)])
        with pytest.raises(TrainedAnewError):
            prepared(folder)
    prepared(folder, randomness={"seed": 7}, **{"train_dataloader.num_workers": 1})
    assert len(files(folder)) == 1


def test_a_killed_training_continues_with_the_same_result(
    first: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_epoch = ExitTraining.train_epoch

    def killed(self: ExitTraining, epoch: int, *args: Any) -> Any:
        if epoch == 1:
            raise KeyboardInterrupt
        return train_epoch(self, epoch, *args)

    monkeypatch.setattr(ExitTraining, "train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path / "killed")
    monkeypatch.setattr(ExitTraining, "train_epoch", train_epoch)
    runner = prepared(tmp_path / "killed")
    assert "exits of teacher 'teacher': continued after epoch 1" in run_log(runner)
    expected, found = stored(Path(first.work_dir)), stored(tmp_path / "killed")
    assert same(found["state_dict"], expected["state_dict"])
    assert found["scores"] == expected["scores"]
    assert same(runner.model.state_dict(), first.model.state_dict())


def test_exits_from_a_file_and_with_the_teachers_logits(first: Runner, tmp_path: Path) -> None:
    (given,) = files(Path(first.work_dir))
    runner = prepared(tmp_path / "given", {"teacher_exits.checkpoint": str(given)})
    assert same(runner.model.teachers["teacher"].exits.state_dict(), stored(Path(first.work_dir))["state_dict"])
    assert not files(tmp_path / "given")
    prepared(tmp_path / "kd", {"teacher_exits.loss": "ce+kd"})
    assert not same(stored(tmp_path / "kd")["state_dict"], stored(Path(first.work_dir))["state_dict"])


def test_wrong_options_end_in_one_line(tmp_path: Path) -> None:
    for option, value, line in (
        ("epoch", 3, "teacher_exits has no option 'epoch', did you mean 'epochs'"),
        ("loss", "kd", "teacher_exits loss='kd' is unknown; choose one of 'ce', 'ce"),
        ("epochs", 0, "recipe: teacher_exits: epochs=0 must be 1 or more"),
        ("fraction", 0.0, r"fraction=0.0 of the run's above 0"),
        ("milestones", [30, 60], r"milestones=\[30, 60\] are fractions of its own training"),
        ("lr", -1, "teacher_exits: lr=-1 must be above 0, momentum=0.9 from 0 to below 1"),
        ("lr", 1e30, "training the exits of teacher 'teacher': the loss is not finite; lower teacher_exits.lr"),
    ):
        assert_refused(line, prepared, tmp_path / "run", {f"teacher_exits.{option}": value})
