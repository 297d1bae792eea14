"""Composing a distillation from a plain config: which recipe is taken, and what the result is called."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from kd_mm.apis.compose import KINDS, compose, is_detector, kind_of, read_recipe, recipe_names
from kd_mm.utils.config import load_config

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
    assert {"kd", "mtkd_ssr", "pkd"} <= set(recipe_names("detection"))
    assert {"kd", "mtkd_ssr", "rkd", "cosine"} <= set(recipe_names("reid"))
    for kind in KINDS:
        for name in recipe_names(kind):
            assert "losses" in read_recipe(name, kind)[name]
    for kind in (None, "reid"):
        with pytest.raises(ValueError, match="'crosskd' is for detectors alone; for this model take one of: at, "):
            read_recipe("crosskd", kind)


def test_a_network_for_re_identification_gets_its_recipe() -> None:
    plain = load_config("kd_mm::reid/market1501/resnet18_b64_market1501.py")
    assert kind_of(plain) == "reid"
    recipe = compose(plain, "mtkd_ssr", "teacher.py", "teacher.pth").model.recipe
    assert recipe.exits.type == "kd_mm.BNNeckExit"
    assert recipe.losses.aux.loss_weight == 0.5
