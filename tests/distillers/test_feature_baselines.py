"""The recipes of the feature baselines train a CNN under a CNN and under a transformer, or say why not."""

import copy
from typing import Any

import pytest
import torch

from ..helpers.errors import assert_refused
from .conftest import CLASSES, batch, build, classifier, recipe


def transformer() -> dict[str, Any]:
    arch = {"embed_dims": 24, "num_layers": 4, "num_heads": 2, "feedforward_channels": 48}
    return {
        "type": "mmpretrain.ImageClassifier",
        "backbone": {"type": "mmpretrain.VisionTransformer", "arch": arch, "img_size": 16, "patch_size": 4},
        "head": {"type": "mmpretrain.VisionTransformerClsHead", "num_classes": CLASSES, "in_channels": 24},
        "data_preprocessor": {"mean": [120.0] * 3, "std": [60.0] * 3, "num_classes": CLASSES},
    }


TEACHERS = {
    "cnn": classifier(14, width=16),
    "pre-activation": {
        **classifier(14),
        "backbone": {"type": "kd_mm.CIFARWideResNet", "depth": 10, "widen_factor": 2},
        "head": {"type": "mmpretrain.LinearClsHead", "num_classes": CLASSES, "in_channels": 128},
    },
    "transformer": transformer(),
}


def distiller(name: str, teacher: str = "cnn", **config: Any) -> Any:
    own = recipe(name)
    for loss in own["losses"].values():
        if loss["type"] == "kd_mm.CRDLoss":
            loss.update(num_negatives=16, num_samples=40)
    config = {"teacher": {"config": TEACHERS[teacher], "random_weights": True}, "recipe": own, **config}
    return build(**config)


def indexed_batch(seed: int = 0) -> dict[str, Any]:
    data = batch(seed=seed)
    for k, sample in enumerate(data["data_samples"]):
        sample.set_metainfo({"sample_idx": (6 * seed + k) % 40})
    return data


def steps(model: Any, *seeds: int) -> list[dict[str, float]]:
    """Train on some batches; return what the terms were."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model.train()
    recorded = []
    for seed in seeds:
        torch.manual_seed(seed)
        out = model(**model.data_preprocessor(indexed_batch(seed), True), mode="loss")
        total, terms = model.parse_losses(out)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        recorded.append({key: float(value.detach()) for key, value in terms.items()})
    return recorded


@pytest.mark.parametrize(
    ("teacher", "name"),
    [
        *(("pre-activation", name) for name in ("ofd", "reviewkd")),
        *(("transformer", name) for name in ("at", "crd", "fitnets", "pkd", "reviewkd", "vid")),
    ],
)
def test_recipes_train_a_cnn(teacher: str, name: str) -> None:
    model = distiller(name, teacher)
    model.check_next_step = True
    before = copy.deepcopy(model.state_dict())
    first, second = steps(model, 0, 1)
    assert all(torch.isfinite(torch.tensor(list(terms.values()))).all() for terms in (first, second))
    (term,) = model.losses
    assert first[f"loss_{term}"] != second[f"loss_{term}"]
    # Every parameter has a gradient, so DDP needs to look for no unused ones.
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    learned = model.state_dict()
    assert all(not torch.equal(learned[key], before[key]) for key in learned if key.endswith("conv1.weight"))


def test_what_does_not_fit_is_refused() -> None:
    assert_refused(r"stage 1 of the teacher \(backbone.layers.1 .* no batch norm", distiller, "ofd", "transformer")
    assert_refused(r"stage 1 has maps \(16, 16\) \(student\) and \(4, 4\) \(teacher\)", distiller, "cwd", "transformer")
    model = distiller("crd").train()
    assert_refused("the data samples carry no sample_idx", model, **model.data_preprocessor(batch(), True), mode="loss")


def test_channel_wise_stages_of_one_size_fit_a_transformer() -> None:
    own = recipe("cwd", **{"losses.cwd.stages": [3]})
    model = build(recipe=own, teacher={"config": TEACHERS["transformer"], "random_weights": True})
    assert len(steps(model, 0, 1)) == 2


def test_overhaul_reads_before_the_relu_on_both_sides() -> None:
    model = distiller("ofd")
    taps = {f"backbone.layer{i}.0.relu:in" for i in (1, 2, 3)}
    assert taps <= set(model.recorder.taps)
    assert {f"backbone.layer{i}.1.relu:in" for i in (1, 2, 3)} <= set(model.teachers["teacher"].recorder.taps)
    assert "margin1" not in str(list(model.state_dict()))


def test_a_student_without_relus_learns_the_overhaul_from_its_stages() -> None:
    model = distiller("ofd", student=transformer())
    assert not any(":in" in tap for tap in model.recorder.taps if "layers" in tap)
    assert len(steps(model, 0, 1)) == 2


def test_review_takes_the_teacher_before_its_relu_where_there_is_one() -> None:
    taps = distiller("reviewkd").teachers["teacher"].recorder.taps
    assert {f"backbone.layer{i}.1.relu:in" for i in (1, 2, 3)} <= set(taps)
    own = recipe("reviewkd", **{"losses.fusion.teacher_maps": "stage"})
    assert not any(":in" in tap for tap in distiller("reviewkd", recipe=own).teachers["teacher"].recorder.taps)


def test_a_tap_before_the_relu_changes_neither_network() -> None:
    plain, tapped = distiller("at"), distiller("ofd")
    data = plain.data_preprocessor(indexed_batch(), True)["inputs"]
    assert torch.equal(plain.eval()(data), tapped.eval()(data))
    pair = [model.teachers["teacher"] for model in (plain, tapped)]
    pair[1].model.load_state_dict(pair[0].model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(pair[0].model(data), pair[1].model(data))
