"""Composing a distillation from a plain config: which recipe is taken, and what the result is called."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from kd_mm.apis.compose import compose, is_detector, read_recipe, recipe_names
from kd_mm.distillers.config_file import load_config

RESNET = "mmpretrain::resnet/resnet18_8xb32_in1k.py"
RETINANET = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"


@pytest.mark.parametrize(("path", "norm"), [(RESNET, None), (RETINANET, "GN")])
def test_a_detector_gets_the_recipe_for_detectors(path: str, norm: str | None) -> None:
    plain = load_config(path)
    assert is_detector(plain) == (norm is not None)
    composed = compose(plain, "mtkd_ssr", "teacher.py", "teacher.pth")
    assert composed.model.recipe.exits.get("norm") == norm
    assert composed.model.student == plain.model
    assert composed.default_hooks.distill.type == "kd_mm.DistillHook"
    assert Config.fromstring(composed.pretty_text, ".py").model == composed.model


def test_the_result_is_named_after_recipe_and_config() -> None:
    composed = compose(load_config(RESNET), "kd", "teacher.py", "teacher.pth")
    assert composed.filename == "kd_resnet18_8xb32_in1k.py"


def test_recipes_of_one_task() -> None:
    assert {"kd", "mtkd_ssr", "dkd", "dist"} <= set(recipe_names())
    assert {"kd", "mtkd_ssr", "pkd"} <= set(recipe_names(detection=True))
    for name in recipe_names(detection=True):
        assert "losses" in read_recipe(name, detection=True)[name]
    with pytest.raises(ValueError, match="'pkd': it is for detectors"):
        read_recipe("pkd")
