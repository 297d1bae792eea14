"""Exits that came with a teacher's checkpoint: found, put at their stages, and refused where they do not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from kd_mm.distillers import Distiller
from kd_mm.distillers.joint_exits import describe_exits

from ..helpers.errors import assert_refused
from .conftest import build, classifier, recipe

TEACHER = classifier(14, width=16)
STAGES = ["backbone.layer1", "backbone.layer2", "backbone.layer3"]


def save(model: Distiller, path: Path) -> str:
    """Write the checkpoint of a run, as its hooks do."""
    objective = model.objective
    meta = {"exits": describe_exits(model.recipe.exits, objective.exit_stages, list(objective.exits))}
    torch.save({"state_dict": model.state_dict(), "meta": meta}, path)
    return str(path)


@pytest.fixture(scope="module")
def trained() -> Distiller:
    """A network with exits after its first and second stage."""
    return build(student=TEACHER, teacher=None, recipe={"losses": {"aux": {"type": "kd_mm.ExitTaskLoss"}}})


def pair(checkpoint: str, mode: str = "auto", **changes: Any) -> Distiller:
    stages = changes.pop("stages", None)
    teacher = {"config": TEACHER, "checkpoint": checkpoint}
    return build(ready=False, teacher=teacher, stages=stages, recipe=recipe(teacher_exits={"mode": mode}, **changes))


@pytest.mark.parametrize("mode", ["auto", "joint"])
def test_they_are_loaded_and_frozen(trained: Distiller, tmp_path: Path, mode: str) -> None:
    teacher = pair(save(trained, tmp_path / "t.pth"), mode).teachers["teacher"]
    own = trained.objective.exits.state_dict()
    assert teacher.exits_ready
    assert set(own) == set(teacher.exits.state_dict())
    assert all(torch.equal(value, own[key]) for key, value in teacher.exits.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.exits.parameters())


def test_they_are_found_by_the_place_of_their_stage(trained: Distiller, tmp_path: Path) -> None:
    """A pair of two stages counts them 1 and 2: its exit 1 is the one that was trained as 2."""
    two = {"student": STAGES[1:], "teacher": STAGES[1:]}
    exits = pair(save(trained, tmp_path / "t.pth"), stages=two).teachers["teacher"].exits
    assert list(exits) == ["1"]
    assert torch.equal(exits["1"].fc.weight, trained.objective.exits["2"].fc.weight)


def test_a_plain_teacher_and_a_chosen_mode_have_them_trained(trained: Distiller, tmp_path: Path) -> None:
    plain = tmp_path / "plain.pth"
    torch.save(trained.student.state_dict(), plain)
    assert not pair(str(plain)).teachers["teacher"].exits_ready
    assert not pair(save(trained, tmp_path / "t.pth"), "pretrained").teachers["teacher"].exits_ready
    assert_refused("plain.pth. holds no exits: train it by kd-mm train CONFIG --with-exits", pair, str(plain), "joint")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"exits": {"type": "kd_mm.MirrorExit"}}, "they are of type SepConvExit, the recipe's of type MirrorExit"),
        ({"exits": {"type": "kd_mm.SepConvExit", "norm": "GN"}}, r"left over \(.*running_mean"),
        ({"exit_on_last": True}, "they are at backbone.layer1, backbone.layer2, the recipe needs one at backbone.lay"),
    ],
    ids=["type", "options", "stage"],
)
def test_others_are_refused_with_the_way_out(
    trained: Distiller, tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValueError, match=f"exits that are not those of the recipe: .*{line}.*mode=pretrained"):
        pair(save(trained, tmp_path / "t.pth"), **changes)
