"""The multi-exit classifier and the ensemble of its exits."""

import copy
import pickle
from typing import Any

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample
from torch import Tensor, nn

import kd_mm  # noqa: F401 - registers everything
from kd_mm.models import combine_exits
from kd_mm.registry import MODELS

from ..distillers.conftest import classifier
from ..helpers.errors import assert_refused

EXITS = [
    {"type": "kd_mm.SepConvExit", "stage": "backbone.layer1", "widths": [8, 16, 32], "num_classes": 5},
    {"type": "kd_mm.SepConvExit", "stage": "backbone.layer2", "widths": [16, 32], "num_classes": 5},
]


def build(**changes: Any) -> Any:
    init_default_scope("mmpretrain")
    torch.manual_seed(0)
    config = {**classifier(), "type": "kd_mm.MultiExitClassifier", "exits": EXITS, **changes}
    model = MODELS.build(copy.deepcopy(config)).train()
    with torch.no_grad():  # batch statistics of these images, so that logits differ from image to image
        for _ in range(10):
            model.exit_logits(images(24))
    return model.eval()


def images(count: int = 12) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_means_of_logits_and_of_probabilities() -> None:
    exits = [torch.tensor([row]) for row in ([5.0, 0.0], [0.0, 1.5], [0.0, 1.5])]
    logits, probabilities = combine_exits(exits), combine_exits(exits, "prob_mean").softmax(dim=1)
    torch.testing.assert_close(logits, torch.tensor([[5 / 3, 1.0]]))
    assert float(probabilities[0, 0]) == pytest.approx(0.452719, abs=1e-6)
    assert (int(logits.argmax()), int(probabilities.argmax())) == (0, 1)
    assert combine_exits(exits, "last") is exits[-1]
    exits = [torch.tensor([[3e4, -3e4, 0.0]], dtype=torch.bfloat16), torch.zeros(1, 3, dtype=torch.bfloat16)]
    for ensemble in ("logit_mean", "prob_mean"):
        value = combine_exits(exits, ensemble)
        assert value.dtype == torch.float32
        assert value.isfinite().all()


@pytest.mark.parametrize("ensemble", ["logit_mean", "prob_mean"])
def test_weights(ensemble: str) -> None:
    a, b = torch.randn(2, 4, 5, dtype=torch.float64)
    value = combine_exits([a, b], ensemble, [3.0, 1.0])
    of = (lambda x: x) if ensemble == "logit_mean" else (lambda x: x.softmax(dim=1))
    torch.testing.assert_close(of(value), 0.75 * of(a) + 0.25 * of(b))
    torch.testing.assert_close(of(combine_exits([a, b], ensemble, [1.0, 0.0])), of(a))


def test_exit_logits_are_those_of_exits_and_head() -> None:
    model, inputs = build(), images(3)
    maps: list[Tensor] = []
    model.backbone.layer1.register_forward_hook(lambda module, args, output: maps.append(output))
    with torch.no_grad():
        first, second, last = model.exit_logits(inputs)
        torch.testing.assert_close(first, model.exits[0](maps[0]))
        plain = model.head(model.extract_feat(inputs))
    assert torch.equal(plain, last)
    torch.testing.assert_close(model(inputs), (first + second + last) / 3)
    assert [len(model.exit_logits(inputs, depth)) for depth in (1, 2, 3)] == [1, 2, 3]


def test_plain_checkpoint_fills_all_but_the_exits() -> None:
    plain, model = MODELS.build(classifier()).eval(), build()
    missing, extra = model.load_state_dict(plain.state_dict(), strict=False)
    assert extra == []
    assert all(key.startswith("exits.") for key in missing)
    assert torch.equal(model.exit_logits(images())[-1], plain(images()))


def test_predictions_are_those_of_the_ensemble() -> None:
    model, inputs = build(ensemble="prob_mean"), images()
    with torch.no_grad():
        samples, logits = model.predict(inputs), model.exit_logits(inputs)
    expected = torch.stack([one.softmax(dim=1) for one in logits]).mean(dim=0)
    torch.testing.assert_close(torch.stack([sample.pred_score for sample in samples]), expected)
    assert [int(sample.pred_label) for sample in samples] == expected.argmax(dim=1).tolist()


@pytest.mark.parametrize("ensemble", ["logit_mean", "last"])
def test_network_runs_no_deeper_than_depth(ensemble: str) -> None:
    model, inputs = build(ensemble=ensemble, depth=2), images()
    calls: list[int] = []
    model.backbone.layer3.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        found, samples = model(inputs), model.predict(inputs)
    assert calls == []
    first, second, _ = model.exit_logits(inputs)
    expected = second if ensemble == "last" else (first + second) / 2
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.stack([sample.pred_score for sample in samples]), expected.softmax(dim=1))


def test_copies_run_their_own_exits() -> None:
    model, inputs = build(), images(2)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        nn.init.zeros_(twin.exits[0].fc.weight)
        assert not torch.equal(twin.exit_logits(inputs)[0], model.exit_logits(inputs)[0])
        assert torch.equal(twin.exit_logits(inputs)[1], model.exit_logits(inputs)[1])


def test_loss_trains_every_parameter() -> None:
    model = build().train()
    samples = [DataSample().set_gt_label(i % 5) for i in range(6)]
    losses = model(images(6), samples, mode="loss")
    assert {"loss", "loss_exit1", "loss_exit2"} <= set(losses)
    sum(value for key, value in losses.items() if "loss" in key).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_exit_copies_the_rest_of_the_network() -> None:
    rest = {"type": "kd_mm.MirrorExit", "stage": "backbone.layer2", "widths": [16, 32], "num_classes": 5}
    model = build(exits=[{**rest, "rest": ["backbone.layer3"]}])
    copied, original = model.exits[0].body[0].state_dict(), model.backbone.layer3.state_dict()
    assert list(copied) == list(original)
    assert [tuple(z.shape) for z in model.exit_logits(images(2))] == [(2, 5), (2, 5)]


def test_exit_reads_the_tokens_of_a_transformer() -> None:
    vit = {"type": "mmpretrain.VisionTransformer", "img_size": 16, "patch_size": 4, "out_type": "cls_token"}
    vit["arch"] = {"embed_dims": 16, "num_layers": 2, "num_heads": 2, "feedforward_channels": 32}
    stage = {"tap": "backbone.layers.0", "layout": "tokens", "height": 4, "width": 4, "extra_tokens": 1}
    head = {"type": "mmpretrain.VisionTransformerClsHead", "num_classes": 5, "in_channels": 16}
    one = {"type": "kd_mm.SepConvExit", "stage": stage, "widths": [16], "num_classes": 5}
    model = build(backbone=vit, neck=None, head=head, exits=[one])
    tokens: list[Tensor] = []
    model.backbone.layers[0].register_forward_hook(lambda module, args, output: tokens.append(output))
    with torch.no_grad():
        first, _ = model.exit_logits(images(3))
        torch.testing.assert_close(first, model.exits[0].fc(tokens[0][:, 1:].mean(dim=1)))


def test_wrong_options_raise_one_line() -> None:
    for changes, message in (
        ({"exits": []}, "has no exits"),
        ({"ensemble": "median"}, "ensemble='median' is unknown; choose one of 'logit_mean', 'prob_mean', 'last'"),
        ({"weights": [1.0, 1.0]}, "give one >= 0 for each of 2 exits and the head"),
        ({"depth": 4}, "depth=4: give one of 1 to 3"),
        ({"exits": [{**EXITS[0], "stage": "backbone.layer9"}]}, "did you mean backbone.layer"),
        ({"exits": [{"type": "kd_mm.SepConvExit"}]}, r"exits\[0\] needs stage, type, widths and num_classes"),
    ):
        assert_refused(message, build, **changes)
