"""Connectors and exits in the Distiller: which map each connector reads, and which exit learns from whom."""

from typing import Any

import torch
import torch.nn.functional as F

from .conftest import build, classifier, losses_of, recipe

CHANNELS = {"type": "kd_mm.StageChannelLoss"}
HINT = {"type": "kd_mm.FitNetsLoss", "stages": [2]}


def connected(model: Any, teacher: str = "teacher") -> tuple[dict[int, Any], dict[str, Any]]:
    """Run a step; return input and output of the connector of each stage, detached, and the terms."""
    read: dict[int, Any] = {}
    for i, connector in model.objective.connectors[teacher].items():
        connector.register_forward_hook(lambda _m, args, out, i=int(i): read.update({i: (args[0], out.detach())}))
    return read, losses_of(model)


def maps_of(network: Any) -> list[Any]:
    """Return a list to which each stage adds its map, from now on."""
    maps: list[Any] = []
    for name in ("layer1", "layer2", "layer3"):
        getattr(network.backbone, name).register_forward_hook(lambda _m, _a, out: maps.append(out))
    return maps


def test_connectors_of_a_loss_on_means_read_maps_of_the_last_stages_resolution() -> None:
    model = build(recipe={"losses": {"scd": CHANNELS}})
    maps = maps_of(model.student)
    read, _ = connected(model)
    assert [feature.shape[-1] for feature in maps] == [16, 8, 4]
    torch.testing.assert_close(read[1][0], F.avg_pool2d(maps[0], 4))
    torch.testing.assert_close(read[2][0], F.avg_pool2d(maps[1], 2))
    assert read[3][0] is maps[2]


def test_connectors_run_on_the_stages_own_maps_on_request() -> None:
    read, terms = connected(build(recipe={"losses": {"scd": {**CHANNELS, "grid": False}}}))
    assert [read[i][0].shape[-1] for i in (1, 2, 3)] == [16, 8, 4]
    assert {f"scd.stage{i}" for i in (1, 2, 3)} <= terms.keys()


def test_a_loss_on_maps_gets_them_and_a_loss_on_means_those_of_the_same_maps() -> None:
    model = build(recipe=recipe(**{"losses.hint": HINT}))
    of_teacher = maps_of(model.teachers["teacher"].model)
    read, terms = connected(model)
    assert {i: source.shape[-1] for i, (source, _) in read.items()} == {1: 4, 2: 8, 3: 4}
    torch.testing.assert_close(terms["hint"], F.mse_loss(read[2][1], of_teacher[1]))
    for i, feature in enumerate(of_teacher, 1):
        expected = F.mse_loss(read[i][1].mean((2, 3)), feature.mean((2, 3)))
        torch.testing.assert_close(terms[f"scd.stage{i}"], expected)


def test_each_teacher_has_the_maps_that_its_losses_read() -> None:
    teachers = {name: {"config": classifier(14, width=16), "random_weights": True} for name in ("big", "small")}
    losses = {"scd": {**CHANNELS, "teacher": "big"}, "hint": {**HINT, "teacher": "small"}}
    model = build(teacher=teachers, recipe={"losses": losses})
    assert connected(model, "big")[0][2][0].shape[-1] == 4
    assert connected(model, "small")[0][2][0].shape[-1] == 8


def test_means_of_a_linear_connector_are_those_of_the_full_map() -> None:
    connectors = {"type": "kd_mm.ConvConnector", "act": "none"}
    values = []
    for losses in ({"scd": CHANNELS}, {"scd": CHANNELS, "hint": {"type": "kd_mm.FitNetsLoss"}}):
        model = build(recipe={"losses": losses, "connectors": connectors})
        model.objective.eval()
        values.append(losses_of(model)["scd"])
    torch.testing.assert_close(*values)


def test_deviations_are_those_of_the_connected_map_at_the_stages_own_resolution() -> None:
    model = build(recipe={"losses": {"scd": {**CHANNELS, "descriptor": "gaussian"}}})
    of_teacher = maps_of(model.teachers["teacher"].model)
    read, terms = connected(model)
    assert [read[i][0].shape[-1] for i in (1, 2, 3)] == [16, 8, 4]
    for i, feature in enumerate(of_teacher, 1):
        expected = sum(
            F.mse_loss(statistic(read[i][1]), statistic(feature))
            for statistic in (lambda x: x.mean((2, 3)), lambda x: (x.var((2, 3)) + 1e-5).sqrt())
        )
        torch.testing.assert_close(terms[f"scd.stage{i}"], expected)


def test_a_term_of_one_exit_reaches_no_other_head() -> None:
    model = build(recipe=recipe("mskd", **{"losses.srd.stages": [1]})).train()
    losses_of(model)["loss_srd"].backward()
    reached = {
        i
        for i, each in model.objective.exits.items()
        if any(p.grad is not None and p.grad.any() for p in each.parameters())
    }
    assert reached == {"1"}


def test_byot_needs_no_teacher_and_moves_no_target() -> None:
    model = build(recipe=recipe("byot"), teacher=None).train()
    assert not model.teachers
    losses = losses_of(model)
    assert {"loss_aux", "loss_review", "loss_exit_hint", "exit_hint.stage1", "exit_hint.stage2"} <= set(losses)
    torch.testing.assert_close(losses["loss_exit_hint"], 0.03 * losses["exit_hint"])
    grads = torch.autograd.grad(
        losses["loss_exit_hint"] + losses["loss_review"],
        list(model.student.head.parameters()),
        allow_unused=True,
        retain_graph=True,
    )
    deepest = torch.autograd.grad(
        losses["loss_exit_hint"], list(model.student.backbone.layer3.parameters()), allow_unused=True, retain_graph=True
    )
    assert all(grad is None or not grad.any() for grad in (*grads, *deepest))
    fc = model.objective.exits["1"].fc
    assert torch.autograd.grad(losses["loss_exit_hint"], [fc.weight], allow_unused=True, retain_graph=True) == (None,)
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.parameters())
