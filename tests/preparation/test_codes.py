"""The teachers' codes: trained once on a frozen teacher, stored, and the same after a kill."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import Runner

from kd_mm.preparation import CodeTraining

from ..helpers.digits import digits_run, run_log


def prepared(folder: Path, **preparation: Any) -> Runner:
    options = {"epochs": 2, "lr": 0.05, **preparation}
    losses = {f"losses.{name}.preparation": options for name in ("codes", "stable")}
    return digits_run(folder, "mas", options=losses)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("teacher_codes_teacher_*.pth")
    return torch.load(file, weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    runner = prepared(tmp_path_factory.mktemp("mas"))
    before = {key: value.clone() for key, value in runner.model.teachers["teacher"].model.state_dict().items()}
    plain = set(runner.model.student.state_dict())
    runner.train()
    for key, value in runner.model.teachers["teacher"].model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert set(runner.model.student.state_dict()) == plain
    return runner


def test_trained_once_for_both_losses(trained: Runner) -> None:
    log = run_log(trained)
    assert log.count("training the codes of teacher 'teacher' for 2 epochs") == 1
    kept = stored(Path(trained.work_dir))
    for name in ("codes", "stable"):
        codes = trained.model.losses[name].teacher_codes()
        assert not any(p.requires_grad for p in codes.parameters())
        assert all(torch.equal(value, kept[key]) for key, value in codes.state_dict().items())
    assert {key.split(".")[0] for key in kept} == {"encoders", "decoders"}
    assert not any("decoders" in key for key in trained.model.state_dict())


def test_separate_passes_end_where_a_joint_one_does(trained: Runner, tmp_path: Path) -> None:
    prepared(tmp_path, separate_passes=True).train()
    expected = stored(Path(trained.work_dir))
    for key, value in stored(tmp_path).items():
        torch.testing.assert_close(value, expected[key], atol=1e-6, rtol=0)


def test_the_best_epoch_on_held_out_images_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second epoch ruins a code; the run is killed after that and continues with what was best before."""
    options = {"held_out": 0.34, "epochs": 3}
    train_epoch, epochs_done, killed = CodeTraining.train_epoch, [], []

    def watched(self: Any, epoch: int, loader: Any, optimizer: Any) -> Any:
        if epoch == 2 and not killed:
            killed.append(True)
            raise KeyboardInterrupt
        found, codes = train_epoch(self, epoch, loader, optimizer), self.module
        if epoch:
            for parameter in codes.decoders["low"].parameters():
                parameter.data.mul_(-1)
        epochs_done.append((len(loader.dataset), {key: value.clone() for key, value in codes.state_dict().items()}))
        return found

    monkeypatch.setattr(CodeTraining, "train_epoch", watched)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path, **options).train()
    prepared(tmp_path, **options).train()
    assert "on held-out training images: low" in sorted(tmp_path.glob("*/*.log"))[-1].read_text()
    assert [count for count, _ in epochs_done] == [40] * 3  # two of six images a class are held out
    kept = stored(tmp_path)
    epochs = {
        name: {i for i, (_, state) in enumerate(epochs_done) if all(torch.equal(state[k], kept[k]) for k in keys)}
        for name in ("low", "high")
        for keys in [[key for key in kept if key.split(".")[1] == name]]
    }
    assert all(len(found) == 1 for found in epochs.values())
    assert epochs["low"] != {1}
    with pytest.raises(ValueError, match=r"preparation.held_out=1.0 is a share"):
        prepared(tmp_path / "wrong", held_out=1.0).train()


def test_an_unknown_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="preparation has no option 'epoch', did you mean 'epochs'"):
        prepared(tmp_path, epoch=3).train()
