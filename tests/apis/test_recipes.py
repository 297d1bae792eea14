"""Recipes: which one a model gets, what composing and joining make of them, and one clear line where they disagree."""

import re

import pytest
from mmengine.config import Config

from kd_mm.apis.recipes import (
    TASK_MODELS,
    compose,
    join_recipes,
    read_recipe,
    read_recipes,
    recipe_names,
    task_of,
)
from kd_mm.utils.config import load_config

from ..helpers.errors import assert_refused

RESNET = "mmpretrain::resnet/resnet18_8xb32_in1k.py"
RETINANET = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"
TEACHER = ("teacher.py", "teacher.pth")
KD = {"type": "kd_mm.KDLoss", "temperature": 4.0}


@pytest.mark.parametrize(("path", "norm"), [(RESNET, None), (RETINANET, "GN")])
def test_a_detector_gets_the_recipe_for_detectors(path: str, norm: str | None) -> None:
    plain = load_config(path)
    assert task_of(plain) == ("classification" if norm is None else "detection")
    composed = compose(plain, "mtkd_ssr", "teacher.py", "teacher.pth")
    assert composed.model.recipe.exits.get("norm") == norm
    assert composed.model.student == plain.model
    assert composed.default_hooks.distill.type == "kd_mm.DistillHook"
    assert Config.fromstring(composed.pretty_text, ".py").model == composed.model


def test_recipes_of_one_task_and_a_network_for_re_identification() -> None:
    assert {"kd", "mtkd_ssr", "dkd", "dist"} <= set(recipe_names())
    assert {"kd", "mtkd_ssr", "pkd"} <= set(recipe_names("detection"))
    assert {"kd", "mtkd_ssr", "rkd", "cosine"} <= set(recipe_names("reid"))
    for task in TASK_MODELS:
        for name in recipe_names(task):
            assert "losses" in read_recipe(name, task)[name]
    plain = load_config("kd_mm::reid/market1501/resnet18_1xb64_market1501.py")
    assert task_of(plain) == "reid"
    recipe = compose(plain, "mtkd_ssr", "teacher.py", "teacher.pth").model.recipe
    assert recipe.exits.type == "kd_mm.BNNeckExit"
    assert recipe.losses.aux.loss_weight == 0.5


def refusal(recipes: dict, overridden: tuple[str, ...] = ()) -> str:
    """The one line with which recipes are not joined."""
    with pytest.raises(ValueError, match="cannot be joined") as error:
        join_recipes(recipes, overridden)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_losses_of_all_and_options_of_each() -> None:
    first = {"losses": {"kd": KD}, "exits": {"type": "A", "norm": "GN"}}
    second = {
        "losses": {"at": {"type": "AT"}, "kd": dict(KD)},
        "connectors": {"type": "C"},
        "exits": {"type": "A", "width": 3},
    }
    joined = join_recipes({"first": first, "second": second})
    assert joined["losses"] == {"kd": KD, "at": {"type": "AT"}}
    assert joined["exits"] == {"type": "A", "norm": "GN", "width": 3}
    assert joined["connectors"] == {"type": "C"}
    assert first["losses"] == {"kd": KD}
    assert first["exits"] == {"type": "A", "norm": "GN"}


def test_losses_of_one_name_and_options_that_disagree_are_refused() -> None:
    line = refusal({"a": {"losses": {"kd": KD}}, "b": {"losses": {"kd": {**KD, "temperature": 2.0}}}})
    assert line.startswith(
        "the recipes a and b cannot be joined: both have a loss 'kd', with another temperature (4.0 "
    )
    assert "write a recipe of your own" in line
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
    recipes = {"kd": {"losses": {"kd": KD}, "student_loss_weight": 0.1}, "at": {"losses": {"at": {"type": "AT"}}}}
    assert "student_loss_weight is 0.1 in one and 1.0 in the other" in refusal(recipes)
    assert join_recipes(recipes, ["student_loss_weight"])["student_loss_weight"] == 0.1


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
    plain = load_config("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py")
    recipe = compose(plain, "mtkd_ssr+student_friendly", *TEACHER).model.recipe
    assert recipe.transform.temperature == 1.0
    assert recipe.exits.norm == "GN"
    assert "kd" not in recipe.losses


def test_recipes_of_detectors_can_be_joined() -> None:
    for names in ("mtkd_ssr+ld", "mtkd_ssr+ld+mgd", "pkd+kd+ld", "pkd+mgd", "crosskd+ld", "cwd+kd", "fgd+ld+kd"):
        joined, _ = read_recipes(names, "detection")
        assert len(joined["losses"]) >= len(names.split("+"))
    joined, _ = read_recipes("mtkd_ssr+crosskd", "detection")
    recipe = read_recipe("detection", "detection").detection.to_dict()
    assert recipe["losses"]["crosskd"].pop("optional")
    assert {**recipe, "student_loss_weight": 1.0} == joined


def test_each_name_is_given_once_and_overrides_settle_what_recipes_disagree_about() -> None:
    for names in ("kd+", "kd++dkd", "kd+kd"):
        assert_refused(re.escape(f"--distiller {names}: name each recipe once"), read_recipes, names)
        assert_refused("unknown recipe 'dkt'", read_recipes, "kd+dkt")
    plain = load_config(RESNET)
    assert_refused("the recipes kd and dkd cannot be joined: student_loss_weight", compose, plain, "kd+dkd", *TEACHER)
    recipe = compose(plain, "kd+dkd", *TEACHER, {"model.recipe.student_loss_weight": 1.0}).model.recipe
    assert set(recipe.losses) == {"kd", "dkd"}


def test_several_teachers() -> None:
    plain = load_config(RESNET)
    teachers = compose(plain, "ca_mkd", ["a.py", "kd_mm::b.py"], ["a.pth", "b.pth"]).model.teacher
    assert [teacher.config.rpartition("/")[2] for teacher in teachers] == ["a.py", "kd_mm::b.py"]
    assert compose(plain, "kd", ["a.py"], ["a.pth"]).model == compose(plain, "kd", "a.py", "a.pth").model
    with pytest.raises(ValueError, match="--teacher names 2 configs, --teacher-checkpoint 1; give as many"):
        compose(plain, "ca_mkd", ["a.py", "b.py"], ["a.pth"])
