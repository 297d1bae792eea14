"""The multi-exit classifier: what an ensemble answers, who leaves where, and what it costs."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample
from torch import Tensor, nn

import kd_mm  # noqa: F401 - registers everything
from kd_mm.evaluation import ExitMetric
from kd_mm.models import combine_exits
from kd_mm.registry import MODELS

EXITS = [
    {"type": "kd_mm.SepConvExit", "stage": "backbone.layer1", "widths": [8, 16, 32], "num_classes": 5},
    {"type": "kd_mm.SepConvExit", "stage": "backbone.layer2", "widths": [16, 32], "num_classes": 5},
]


def build(**changes: Any) -> Any:
    init_default_scope("mmpretrain")
    torch.manual_seed(0)
    config = {
        "type": "kd_mm.MultiExitClassifier",
        "backbone": {"type": "kd_mm.CIFARResNet", "depth": 8, "widths": (8, 8, 16, 32)},
        "neck": {"type": "mmpretrain.GlobalAveragePooling"},
        "head": {"type": "mmpretrain.LinearClsHead", "num_classes": 5, "in_channels": 32},
        "exits": EXITS,
        "data_preprocessor": {"mean": [120.0] * 3, "std": [60.0] * 3, "num_classes": 5},
        **changes,
    }
    model = MODELS.build(copy.deepcopy(config)).train()
    with torch.no_grad():  # batch statistics of these images, so that answers differ from image to image
        for _ in range(30):
            model.answers(images(24))
    return model.eval()


def sure(model: Any, quantile: float) -> None:
    """Set the threshold so that this share of images stays beyond the first exit."""
    with torch.no_grad():
        model.threshold = float(F.softmax(model.answers(images(24))[0], dim=1).amax(dim=1).quantile(quantile))


def images(count: int = 12) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


# -- the ensemble ---------------------------------------------------------------------------------------------------


def test_mean_of_logits_and_mean_of_probabilities_disagree() -> None:
    exits = [torch.tensor([row]) for row in ([5.0, 0.0], [0.0, 1.5], [0.0, 1.5])]
    logits, probabilities = combine_exits(exits), combine_exits(exits, "prob_mean").softmax(dim=1)
    torch.testing.assert_close(logits, torch.tensor([[5 / 3, 1.0]]))
    assert float(probabilities[0, 0]) == pytest.approx(0.452719, abs=1e-6)
    assert (int(logits.argmax()), int(probabilities.argmax())) == (0, 1)
    assert combine_exits(exits, "last") is exits[-1]


@pytest.mark.parametrize("ensemble", ["logit_mean", "prob_mean"])
def test_the_order_of_the_exits_does_not_matter_and_equal_ones_are_one(ensemble: str) -> None:
    exits = list(torch.randn(3, 4, 5, dtype=torch.float64))
    given, turned = combine_exits(exits, ensemble), combine_exits([exits[2], exits[0], exits[1]], ensemble)
    torch.testing.assert_close(given, turned)
    same = combine_exits([exits[0]] * 3, ensemble)
    torch.testing.assert_close(same.softmax(dim=1), exits[0].softmax(dim=1))


@pytest.mark.parametrize("ensemble", ["logit_mean", "prob_mean"])
def test_weights(ensemble: str) -> None:
    a, b = torch.randn(2, 4, 5, dtype=torch.float64)
    value = combine_exits([a, b], ensemble, [3.0, 1.0])
    of = (lambda x: x) if ensemble == "logit_mean" else (lambda x: x.softmax(dim=1))
    torch.testing.assert_close(of(value), 0.75 * of(a) + 0.25 * of(b))
    torch.testing.assert_close(of(combine_exits([a, b], ensemble, [1.0, 0.0])), of(a))


def test_extreme_logits_in_bfloat16_stay_finite() -> None:
    exits = [torch.tensor([[3e4, -3e4, 0.0]], dtype=torch.bfloat16), torch.zeros(1, 3, dtype=torch.bfloat16)]
    for ensemble in ("logit_mean", "prob_mean"):
        value = combine_exits(exits, ensemble)
        assert value.dtype == torch.float32
        assert value.isfinite().all()


# -- the classifier -------------------------------------------------------------------------------------------------


def test_answers_are_those_of_exits_and_head() -> None:
    model, inputs = build(), images(3)
    first, second, last = model.answers(inputs)
    with torch.no_grad():
        maps = model.backbone.layer1(model.backbone.stem(inputs)) if hasattr(model.backbone, "stem") else None
        if maps is not None:
            torch.testing.assert_close(first, model.exits[0](maps))
        plain = model.head(model.extract_feat(inputs))
    assert torch.equal(plain, last)
    torch.testing.assert_close(model(inputs), (first + second + last) / 3)
    assert [len(model.answers(inputs, depth)) for depth in (1, 2, 3)] == [1, 2, 3]


def test_a_plain_checkpoint_fills_all_but_the_exits() -> None:
    config = {"type": "mmpretrain.ImageClassifier", "backbone": {"type": "kd_mm.CIFARResNet", "depth": 8}}
    config["backbone"]["widths"] = (8, 8, 16, 32)
    config["neck"] = {"type": "mmpretrain.GlobalAveragePooling"}
    config["head"] = {"type": "mmpretrain.LinearClsHead", "num_classes": 5, "in_channels": 32}
    plain, model = MODELS.build(config).eval(), build()
    missing, extra = model.load_state_dict(plain.state_dict(), strict=False)
    assert extra == []
    assert all(key.startswith("exits.") for key in missing)
    assert torch.equal(model.answers(images())[-1], plain(images()))


def test_predictions_say_what_each_exit_says() -> None:
    model, inputs = build(ensemble="prob_mean"), images()
    with torch.no_grad():
        samples, answers = model.predict(inputs), model.answers(inputs)
    expected = torch.stack([logits.softmax(dim=1) for logits in answers]).mean(dim=0)
    torch.testing.assert_close(torch.stack([sample.pred_score for sample in samples]), expected)
    labels = torch.stack([logits.argmax(dim=1) for logits in answers], dim=1)
    assert torch.equal(torch.stack([sample.exit_labels for sample in samples]), labels)
    assert {sample.left_at for sample in samples} == {3}


@pytest.mark.parametrize("ensemble", ["logit_mean", "last"])
def test_an_inner_exit_answers_alone_or_with_those_before_it(ensemble: str) -> None:
    model, inputs = build(ensemble=ensemble, depth=2), images()
    ran: list[int] = []
    model.backbone.layer3.register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        found, samples = model(inputs), model.predict(inputs)
    assert ran == []
    first, second, _ = model.answers(inputs)
    torch.testing.assert_close(found, second if ensemble == "last" else (first + second) / 2)
    assert {sample.left_at for sample in samples} == {2}
    assert samples[0].exit_labels.shape == (2,)


@pytest.mark.parametrize("ensemble", ["logit_mean", "prob_mean", "last"])
def test_who_is_sure_leaves_and_the_others_answer_as_if_alone(ensemble: str) -> None:
    model, inputs = build(ensemble=ensemble), images(24)
    sure(model, 0.6)
    nn.init.normal_(model.exits[1].fc.weight, std=0.5)  # surer than the first
    with torch.no_grad():
        samples, answers = model.predict(inputs), model.answers(inputs)
    seen = set()
    for row, sample in enumerate(samples):
        passed = [combine_exits([z[row : row + 1] for z in answers[:depth]], ensemble) for depth in (1, 2, 3)]
        enough = [float(F.softmax(z, dim=1).max()) >= model.threshold for z in passed[:2]]
        left = enough.index(True) + 1 if any(enough) else 3
        seen.add(left)
        assert sample.left_at == left
        torch.testing.assert_close(sample.pred_score, passed[left - 1].softmax(dim=1)[0])
    assert seen == {1, 2, 3}


def test_deeper_stages_run_on_what_is_left_and_not_at_all_for_nobody() -> None:
    model, inputs, rows = build(), images(24), []
    sure(model, 0.6)
    model.backbone.layer3.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    with torch.no_grad():
        left = [sample.left_at for sample in model.predict(inputs)]
    assert rows == [left.count(3)]
    model.threshold = 1e-6
    with torch.no_grad():
        assert {sample.left_at for sample in model.predict(inputs)} == {1}
    assert len(rows) == 1
    model.threshold = None
    with torch.no_grad():
        model.predict(inputs)
    assert rows[1] == 24


def test_copies_answer_with_their_own_exits() -> None:
    model, inputs = build(), images(2)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        nn.init.zeros_(twin.exits[0].fc.weight)
        assert not torch.equal(twin.answers(inputs)[0], model.answers(inputs)[0])
        assert torch.equal(twin.answers(inputs)[1], model.answers(inputs)[1])


def test_it_trains_without_a_teacher() -> None:
    model = build().train()
    samples = [DataSample().set_gt_label(i % 5) for i in range(6)]
    losses = model(images(6), samples, mode="loss")
    assert {"loss", "loss_exit1", "loss_exit2"} <= set(losses)
    sum(value for key, value in losses.items() if "loss" in key).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_exit_may_copy_the_rest_of_the_network() -> None:
    rest = {"type": "kd_mm.MirrorExit", "stage": "backbone.layer2", "widths": [16, 32], "num_classes": 5}
    model = build(exits=[{**rest, "rest": ["backbone.layer3"]}])
    theirs, ours = model.exits[0].body[0].state_dict(), model.backbone.layer3.state_dict()
    assert list(theirs) == list(ours)
    assert [tuple(z.shape) for z in model.answers(images(2))] == [(2, 5), (2, 5)]


def test_a_transformer_leaves_early_too() -> None:
    vit = {"type": "mmpretrain.VisionTransformer", "img_size": 16, "patch_size": 4, "out_type": "cls_token"}
    vit["arch"] = {"embed_dims": 16, "num_layers": 2, "num_heads": 2, "feedforward_channels": 32}
    place = {"tap": "backbone.layers.0", "layout": "tokens", "height": 4, "width": 4, "extra_tokens": 1}
    head = {"type": "mmpretrain.VisionTransformerClsHead", "num_classes": 5, "in_channels": 16}
    one = {"type": "kd_mm.LinearExit", "stage": place, "widths": [16], "num_classes": 5}
    model = build(backbone=vit, neck=None, head=head, exits=[one])
    sure(model, 0.5)
    with torch.no_grad():
        left = [sample.left_at for sample in model.predict(images(24))]
    assert set(left) == {1, 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exits": []}, "has no exits"),
        ({"ensemble": "median"}, "ensemble='median' is unknown; choose one of 'logit_mean', 'prob_mean', 'last'"),
        ({"weights": [1.0, 1.0]}, "give one for each of 2 exits and one for the head"),
        ({"threshold": 1.5}, "threshold=1.5 is a probability"),
        ({"depth": 4}, "depth=4: give one of 1 to 3"),
        ({"depth": 1, "threshold": 0.5}, "depth=1 and threshold=0.5: give one of them"),
        ({"threshold": 0.5, "exits": [{**EXITS[0], "stage": "backbone.layer2:in"}]}, "not at 'backbone.layer2:in'"),
        ({"exits": [{**EXITS[0], "stage": "backbone.layer9"}]}, "did you mean backbone.layer"),
        ({"exits": [{"type": "kd_mm.SepConvExit"}]}, r"exits\[0\] needs stage, type, widths and num_classes"),
    ],
)
def test_mistakes_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        build(**changes)
    assert "\n" not in str(error.value)


# -- the metric -----------------------------------------------------------------------------------------------------


def sample(truth: int, said: int, left_at: int, exits: list[int] | None = None) -> dict[str, Any]:
    data = DataSample().set_gt_label(truth).set_pred_label(said)
    data.set_field(left_at, "left_at")
    if exits:
        data.set_field(torch.tensor(exits), "exit_labels")
    return data.to_dict()


def test_accuracy_of_each_exit() -> None:
    metric = ExitMetric()
    metric.process(
        None, [sample(0, 0, 2, [1, 0]), sample(1, 1, 2, [1, 1]), sample(2, 0, 2, [0, 2]), sample(3, 3, 2, [0, 0])]
    )
    assert metric.evaluate(4) == {"exits/top1_1": 25.0, "exits/top1_2": 75.0}


def test_shares_and_mean_cost() -> None:
    metric = ExitMetric(multiply_adds=[100, 200, 400])
    metric.process(None, [sample(0, 0, 1), sample(1, 1, 1), sample(2, 0, 1), sample(3, 3, 3)])
    measures = metric.evaluate(4)
    assert measures.pop("exits/top1_of_share_1") == pytest.approx(200 / 3)
    assert measures == {
        "exits/share_1": 75.0,
        "exits/share_2": 0.0,
        "exits/share_3": 25.0,
        "exits/top1_of_share_3": 100.0,
        "exits/multiply_adds": 175.0,
    }


def test_other_networks_are_named() -> None:
    with pytest.raises(ValueError, match=r"reads what kd_mm\.MultiExitClassifier predicts"):
        ExitMetric().process(None, [DataSample().set_gt_label(0).set_pred_label(0).to_dict()])
