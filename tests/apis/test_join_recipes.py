"""Recipes joined by +: one recipe with the losses of all, and one clear line where they disagree."""

from __future__ import annotations

import re

import pytest
import torch

from kd_mm.apis.compose import compose, read_recipes
from kd_mm.apis.join_recipes import join_hooks, join_recipes
from kd_mm.utils.config import load_config

from ..distillers.conftest import batch, build
from ..distillers.test_contracts import count_calls

RESNET = "mmpretrain::resnet/resnet18_8xb32_in1k.py"
TEACHER = ("teacher.py", "teacher.pth")
KD = {"type": "kd_mm.KDLoss", "temperature": 4.0}


def refusal(recipes: dict, settled: tuple[str, ...] = ()) -> str:
    """The one line with which recipes are not joined."""
    with pytest.raises(ValueError, match="cannot be joined") as error:
        join_recipes(recipes, settled)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_losses_of_all_and_options_of_each() -> None:
    first = {"losses": {"kd": KD}, "exits": {"type": "A", "norm": "GN"}}
    second = {"losses": {"at": {"type": "AT"}}, "connectors": {"type": "C"}, "exits": {"type": "A", "width": 3}}
    joined = join_recipes({"first": first, "second": second})
    assert joined["losses"] == {"kd": KD, "at": {"type": "AT"}}
    assert joined["exits"] == {"type": "A", "norm": "GN", "width": 3}
    assert joined["connectors"] == {"type": "C"}
    assert first["losses"] == {"kd": KD}
    assert first["exits"] == {"type": "A", "norm": "GN"}


def test_a_loss_that_two_have_alike_is_there_once() -> None:
    joined = join_recipes({"a": {"losses": {"kd": KD}}, "b": {"losses": {"kd": dict(KD), "c": {"type": "C"}}}})
    assert joined["losses"] == {"kd": KD, "c": {"type": "C"}}


def test_other_losses_of_one_name_are_refused() -> None:
    line = refusal({"a": {"losses": {"kd": KD}}, "b": {"losses": {"kd": {**KD, "temperature": 2.0}}}})
    assert line.startswith(
        "the recipes a and b cannot be joined: both have a loss 'kd', with another temperature (4.0 "
    )
    assert "write a recipe of your own" in line


def test_options_that_disagree_are_refused_with_the_way_out() -> None:
    recipes = {
        "a": {"connectors": {"type": "C", "policy": "always"}},
        "b": {"losses": {}},
        "c": {"connectors": {"type": "C", "policy": "on_mismatch"}},
    }
    line = refusal(recipes)
    assert "the recipes a and c cannot be joined: connectors.policy is 'always' in one and 'on_mismatch' in" in line
    assert "--cfg-options model.recipe.connectors.policy=VALUE" in line
    assert join_recipes(recipes, ["connectors.policy"])["connectors"]["type"] == "C"
    assert join_recipes(recipes, ["connectors"])["connectors"]["type"] == "C"
    assert "connectors.type is 'D' in one" in refusal(
        {"a": {"connectors": {"policy": 1, "type": "D"}}, "c": recipes["c"]}
    )


def test_the_students_own_weight_means_one_where_it_is_left_out() -> None:
    recipes = {"kd": {"losses": {"kd": KD}, "student_loss_weight": 0.1}, "at": {"losses": {"at": {"type": "AT"}}}}
    assert "student_loss_weight is 0.1 in one and 1.0 in the other" in refusal(recipes)
    assert join_recipes(recipes, ["student_loss_weight"])["student_loss_weight"] == 0.1


def test_hooks_are_joined() -> None:
    one, other = {"distill": {"type": "D"}, "extra": {"type": "E"}}, {"distill": {"type": "D"}}
    assert join_hooks({"a": one, "b": other}) == one
    with pytest.raises(ValueError, match=re.escape("distill.type is 'D' in one and 'F' in the other")):
        join_hooks({"a": one, "b": {"distill": {"type": "F"}}})


# -- shipped recipes -----------------------------------------------------------------------------------------------


def test_the_simplifier_joins_mtkd_ssr() -> None:
    composed = compose(load_config(RESNET), "mtkd_ssr+student_friendly", *TEACHER)
    alone = compose(load_config(RESNET), "mtkd_ssr", *TEACHER).model.recipe
    recipe = composed.model.recipe
    assert recipe.losses == alone.losses
    assert recipe.transform.type == "kd_mm.LearningSimplifier"
    assert recipe.student_loss_weight == 1.0
    assert recipe.exits == alone.exits
    assert composed.filename == "mtkd_ssr+student_friendly_resnet18_8xb32_in1k.py"
    assert composed.default_hooks.distill.type == "kd_mm.DistillHook"
    swapped = read_recipes("student_friendly+mtkd_ssr")[0]
    assert swapped == recipe.to_dict()


def test_joined_recipes_run_and_share_their_parts() -> None:
    joined, _ = read_recipes("mtkd_ssr+student_friendly+dkd+dist")
    model = build(recipe=joined)
    assert set(model.losses) == {"aux", "scd", "srd", "review", "dkd", "dist"}
    simplifiers = model.distill["transform"]["teacher"].simplifiers
    assert set(simplifiers) == {"final", "stage1", "stage2"}
    parts = {f"exit{i}": module for i, module in model.distill["exits"].items()}
    parts |= {f"simplifier {name}": layers[0] for name, layers in simplifiers.items()}
    parts |= {"student": model.student.backbone, "teacher": model.teachers["teacher"].model.backbone}
    calls = count_calls(parts)
    out = model(**model.data_preprocessor(batch(), True), mode="loss")
    assert set(calls.values()) == {1}, calls
    assert all(torch.isfinite(value) for name, value in out.items() if "loss" in name)


def test_a_detector_gets_its_own_recipes_joined() -> None:
    plain = load_config("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py")
    recipe = compose(plain, "mtkd_ssr+student_friendly", *TEACHER).model.recipe
    assert recipe.transform.temperature == 1.0
    assert recipe.exits.norm == "GN"
    assert "kd" not in recipe.losses


def test_overrides_settle_what_recipes_disagree_about() -> None:
    plain = load_config(RESNET)
    with pytest.raises(ValueError, match="the recipes kd and dkd cannot be joined: student_loss_weight"):
        compose(plain, "kd+dkd", *TEACHER)
    recipe = compose(plain, "kd+dkd", *TEACHER, {"model.recipe.student_loss_weight": 1.0}).model.recipe
    assert set(recipe.losses) == {"kd", "dkd"}


@pytest.mark.parametrize("names", ["kd+", "kd++dkd", "kd+kd"])
def test_each_name_is_given_once(names: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"--distiller {names}: name each recipe once")):
        read_recipes(names)
    with pytest.raises(ValueError, match="unknown recipe 'dkt'"):
        read_recipes("kd+dkt")


def test_several_teachers() -> None:
    plain = load_config(RESNET)
    teachers = compose(plain, "ca_mkd", ["a.py", "kd_mm::b.py"], ["a.pth", "b.pth"]).model.teacher
    assert [teacher.config.rpartition("/")[2] for teacher in teachers] == ["a.py", "kd_mm::b.py"]
    assert compose(plain, "kd", ["a.py"], ["a.pth"]).model == compose(plain, "kd", "a.py", "a.pth").model
    with pytest.raises(ValueError, match="--teacher names 2 configs, --teacher-checkpoint 1; give as many"):
        compose(plain, "ca_mkd", ["a.py", "b.py"], ["a.pth"])
