"""The Distiller around networks for re-identification."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kd_mm.apis.recipes import read_recipe
from kd_mm.models import BNNeck, BNNeckExit
from kd_mm.registry import MODELS
from kd_mm.tasks import ReIDTask

from ..helpers.errors import assert_refused
from .conftest import batch, build

PEOPLE = 3


def network(classes: int = PEOPLE, width: int = 8, depth: int = 8, kind: str = "kd_mm.ReIDModel") -> dict[str, Any]:
    return {
        "type": kind,
        "backbone": {"type": "kd_mm.CIFARResNet", "depth": depth, "widths": (width, width, 2 * width, 4 * width)},
        "neck": {"type": "mmpretrain.GlobalAveragePooling"},
        "head": {"type": "kd_mm.BNNeckHead", "num_classes": classes, "in_channels": 4 * width},
        "data_preprocessor": {"type": "mmpretrain.ClsDataPreprocessor", "mean": [120.0] * 3, "std": [60.0] * 3},
    }


def recipe_of(name: str) -> dict[str, Any]:
    return read_recipe(name, "reid")[name].to_dict()


def distil(name: str = "mtkd_ssr", student: dict[str, Any] | None = None, **teacher: Any) -> Any:
    config = {"config": {"model": network(**{"width": 16, "depth": 14, **teacher})}, "random_weights": True}
    return build(student=student or network(), teacher=config, recipe=recipe_of(name))


@pytest.fixture
def images() -> dict[str, Any]:
    return batch(6, PEOPLE)


def run(model: Any, images: dict[str, Any]) -> dict[str, Any]:
    return model(**model.data_preprocessor(images, True), mode="loss")


def test_exits_are_bnneck_exits_on_both_sides_and_the_head_classifies_the_last_stage() -> None:
    model = distil()
    assert isinstance(model.task, ReIDTask)
    own = model.objective.exits
    assert list(own) == list(model.teachers["teacher"].exits) == ["1", "2"]
    for exits, width in ((own, 32), (model.teachers["teacher"].exits, 64)):
        for module in exits.values():
            assert isinstance(module, BNNeckExit)
            assert isinstance(module.fc[0], BNNeck)
            assert module.fc[1].weight.shape == (PEOPLE, width)
            assert module.fc[1].bias is None


def test_exits_learn_by_the_smoothed_identity_loss_alone() -> None:
    torch.manual_seed(0)
    model = distil()
    logits, labels = torch.randn(6, PEOPLE), torch.arange(6) % PEOPLE
    smooth = F.one_hot(labels, PEOPLE) * 0.9 + 0.1 / PEOPLE
    expected = -(smooth * F.log_softmax(logits, dim=1)).sum(1).mean()
    torch.testing.assert_close(model.task.exit_losses(model.student, logits[None], labels)[0], expected)


def test_kd_compares_the_identity_logits_of_the_heads(images: dict[str, Any]) -> None:
    model = distil("kd").eval()  # so that running statistics serve on both sides
    inputs = model.data_preprocessor(images, True)
    out = model(**inputs, mode="loss")
    teacher = model.teachers["teacher"].model
    ours, reference = (net.head(net.extract_feat(inputs["inputs"], stage="neck")) for net in (model.student, teacher))
    p, q = F.softmax(reference / 4, dim=1), F.log_softmax(ours / 4, dim=1)
    torch.testing.assert_close(out["kd"], (16 * (p * (p.log() - q)).sum(1).mean()).detach())
    assert set(out) == {"loss_id", "loss_triplet", "loss_kd", "kd"}


@pytest.mark.parametrize("kind", ["kd_mm.ReIDModel", "mmpretrain.ImageClassifier"])
def test_what_is_deployed_is_the_plain_student(kind: str, images: dict[str, Any]) -> None:
    model = distil(student=network(kind=kind))
    run(model, images)
    plain = MODELS.build(network(kind=kind))
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith("distill.")}
    plain.load_state_dict(weights)
    inputs = model.data_preprocessor(images, False)["inputs"]
    for mode in ("tensor", "predict"):
        ours, reference = model.eval()(inputs, mode=mode), plain.eval()(inputs, mode=mode)
        if mode == "predict":
            ours, reference = (torch.stack([sample.feature for sample in found]) for found in (ours, reference))
            assert ours.shape == (6, 32)
        assert torch.equal(ours, reference)


def test_another_number_of_identities_is_refused_where_logits_are_compared() -> None:
    for name in ("mtkd_ssr", "kd"):
        assert_refused(
            r"has 3 classes, teacher 'teacher' has 5: .*embedding losses \(recipes rkd", distil, name, classes=5
        )
