"""The learning simplifier: numbers worked out by hand, gradients, invariances and its guard."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from kd_mm.losses import KDLoss, LearningSimplifier, Progress
from kd_mm.losses.functional import kl_divergence
from kd_mm.losses.observation import Observation
from kd_mm.losses.skd import CollapseError

from ..helpers.errors import assert_refused
from ..helpers.processes import in_group
from ..helpers.waves import wave

TEACHER = torch.tensor([[2.0, 0], [4, 0]], dtype=torch.float64)
STUDENT = torch.zeros(2, 2, dtype=torch.float64)


def simplifier(width: int = 2, names: tuple[str, ...] = ("final",), **options: object) -> LearningSimplifier:
    torch.manual_seed(0)
    made = LearningSimplifier(**{"temperature": 2.0, **options})
    made.setup(dict.fromkeys(names, width), frozenset(), labelled=True)
    return made.double()


def set_weights(made: LearningSimplifier, **weights: Tensor) -> None:
    for name, value in weights.items():
        getattr(made.simplifiers["final"][0], name).weight.data = value.clone()


def rows(*shape: int, pace: float = 1.0, size: float = 3.0) -> Tensor:
    return wave(*shape, pace=pace, size=size)


def loss_of(made: LearningSimplifier, student: Tensor, teacher: Tensor) -> Tensor:
    changed = made({"final": teacher}).logits["final"]
    return KDLoss(temperature=made.temperature)(Observation(logits=student), Observation(logits=changed))


def centred(x: Tensor) -> Tensor:
    return x - x.mean(dim=-1, keepdim=True)


# -- numbers -------------------------------------------------------------------------------------------------------


def test_it_starts_as_plain_kd() -> None:
    made, student = simplifier(), STUDENT.clone().requires_grad_()
    loss = loss_of(made, student, TEACHER)
    assert float(loss) == pytest.approx(0.877515, abs=1e-6)
    (ours,) = torch.autograd.grad(loss, student, retain_graph=True)
    (plain,) = torch.autograd.grad(kl_divergence(student, TEACHER, 2.0), student)
    torch.testing.assert_close(ours, plain, atol=1e-12, rtol=0)
    loss.backward()
    layer = made.simplifiers["final"][0]
    assert layer.out.weight.grad.abs().sum() > 0
    assert all(not getattr(layer, name).weight.grad.any() for name in "qkv")


def test_attention_by_hand() -> None:
    made, one = simplifier(), torch.eye(2, dtype=torch.float64)
    set_weights(made, q=0 * one, k=0 * one, v=one, out=one)
    simple = made.simplify("final", made.softened(TEACHER))
    expected = torch.tensor([[1.25, -1.25], [1.75, -1.75]], dtype=torch.float64)
    torch.testing.assert_close(centred(simple), expected)
    assert float(simple.softmax(1)[0, 0]) == pytest.approx(0.924142, abs=1e-6)
    assert float(loss_of(made, STUDENT, TEACHER)) == pytest.approx(1.970832, abs=1e-6)
    made, one = simplifier(), torch.eye(2, dtype=torch.float64)
    set_weights(made, q=one, k=one, v=one, out=one)
    simple = centred(made.simplify("final", made.softened(TEACHER)))
    assert float(simple[0, 0]) == pytest.approx(1.293740, abs=1e-6)
    assert float(simple[1, 0]) == pytest.approx(1.834881, abs=1e-6)
    attention = (float(simple[0, 0]) - 1.0) / 0.5  # 0.5 + (1 - a) 0.5 + a
    assert attention == pytest.approx(0.587479, abs=1e-5)
    assert float(loss_of(made, STUDENT, TEACHER)) == pytest.approx(2.032868, abs=1e-6)


@pytest.mark.parametrize("tokens", ["batch", "class"])
@pytest.mark.parametrize("options", [{}, {"heads": 2, "layers": 2}, {"residual": False, "center": False}])
def test_gradcheck(tokens: str, options: dict) -> None:
    made = simplifier(4, tokens=tokens, dim=4, zero_init_out=False, **options)
    names, weights = zip(*made.named_parameters(), strict=True)
    z_t = rows(3, 4)

    def function(z_s: Tensor, *values: Tensor) -> Tensor:
        changed = torch.func.functional_call(made, dict(zip(names, values, strict=True)), ({"final": z_t},))
        return kl_divergence(z_s, changed.logits["final"], 2.0)

    start = [weight.detach().clone().requires_grad_() for weight in weights]
    assert gradcheck(function, (rows(3, 4, pace=1.3).requires_grad_(), *start))


# -- invariances ---------------------------------------------------------------------------------------------------


def test_a_permuted_batch_gives_the_permuted_target() -> None:
    made, z, order = simplifier(6, zero_init_out=False), rows(7, 6), torch.randperm(7)
    simple = made({"final": z}).logits["final"]
    torch.testing.assert_close(made({"final": z[order]}).logits["final"], simple[order])


def test_the_level_of_a_sample_is_irrelevant_where_it_is_centred() -> None:
    for center in (True, False):
        made = simplifier(6, zero_init_out=False, center=center)
        z, student, level = rows(5, 6), rows(5, 6, pace=1.9), rows(5, 1, size=4.0)
        before, after = loss_of(made, student, z), loss_of(made, student, z + level)
        assert (abs(float(before - after)) < 1e-9) == center


def test_softening_keeps_the_largest_class() -> None:
    z = rows(20, 6)
    for soften in ("logits", "prob"):
        soft = simplifier(6, soften=soften).softened(z)
        assert torch.equal(soft.argmax(1), z.argmax(1))
    torch.testing.assert_close(
        loss_of(simplifier(6, soften="prob", zero_init_out=False), 0 * z, z),
        loss_of(simplifier(6, zero_init_out=False), 0 * z, z),
    )


def test_one_sample_attends_to_itself() -> None:
    made = simplifier(3, zero_init_out=False)
    x = centred(rows(1, 3) / 2)
    layer = made.simplifiers["final"][0]
    torch.testing.assert_close(centred(made.simplify("final", rows(1, 3) / 2)), centred(x + layer.out(layer.v(x))))
    assert torch.isfinite(loss_of(made, torch.zeros(1, 3, dtype=torch.float64), rows(1, 3)))


def test_classes_as_tokens_may_be_permuted_with_their_embeddings() -> None:
    made, z, order = simplifier(6, tokens="class", zero_init_out=False), rows(4, 6), torch.randperm(6)
    simple = made({"final": z}).logits["final"]
    made.simplifiers["final"][0].classes.data = made.simplifiers["final"][0].classes.data[order]
    torch.testing.assert_close(made({"final": z[:, order]}).logits["final"], simple[:, order])
    alone = made({"final": z[:1, order]}).logits["final"]
    torch.testing.assert_close(alone, simple[:1, order])


def test_regions_attend_to_their_own_image() -> None:
    made, z, images = simplifier(5, zero_init_out=False), rows(7, 5), torch.tensor([0, 1, 0, 1, 1, 0, 0])
    simple = made({"final": z}, images={"final": images}).logits["final"]
    for image in (0, 1):
        alone = made({"final": z[images == image]}).logits["final"]
        torch.testing.assert_close(simple[images == image], alone)


def test_dense_heads_have_their_best_locations_simplified_image_by_image() -> None:
    made, z = simplifier(3, zero_init_out=False, max_tokens=4), rows(2, 9, 3)
    result = made({"final": z})
    changed = result.logits["final"]
    for image in range(2):
        best = z[image].amax(1).topk(4).indices
        others = [i for i in range(9) if i not in best.tolist()]
        assert torch.equal(changed[image, others], z[image, others])
        alone = made({"final": z[image, best]}).logits["final"]
        torch.testing.assert_close(changed[image, best], alone)
    assert result.terms["agreement"] <= 100


def test_sigmoids_keep_their_level() -> None:
    made = LearningSimplifier(temperature=2.0)
    made.setup({"final": 4}, frozenset({"final"}), labelled=False)
    z = rows(3, 4).float() + 5
    result = made({"final": z})
    torch.testing.assert_close(result.logits["final"], z)
    assert float(result.terms["agreement"]) == 100.0
    assert float(result.terms["change"].abs()) < 1e-6


# -- training, schedule, anchor ------------------------------------------------------------------------------------


def test_the_target_is_trained_unless_it_is_detached() -> None:
    for detached in (False, True):
        made = simplifier(4, zero_init_out=False, detach_target=detached)
        student = rows(5, 4, pace=1.7).requires_grad_()
        loss_of(made, student, rows(5, 4)).backward()
        gradients = [parameter.grad for parameter in made.parameters()]
        assert all((g is None) if detached else g.abs().sum() > 0 for g in gradients)
        assert student.grad.abs().sum() > 0


def test_gradients_of_the_attention_are_scaled_and_the_student_s_are_not() -> None:
    found = []
    for scale in (1.0, 0.25):
        made, student = simplifier(4, zero_init_out=False, gradient_scale=scale), rows(5, 4, pace=0.7).requires_grad_()
        set_weights(made, q=torch.eye(4), k=torch.eye(4), v=torch.eye(4), out=torch.eye(4))
        loss_of(made, student, rows(5, 4)).backward()
        found.append(([parameter.grad for parameter in made.parameters()], student.grad))
    (plain, ours), (scaled, same) = found
    assert all(torch.allclose(0.25 * a, b) and a.any() for a, b in zip(plain, scaled, strict=True))
    assert torch.equal(ours, same)


def test_before_its_epoch_logits_stay_and_every_parameter_has_a_zero_gradient() -> None:
    made, z = simplifier(4, zero_init_out=False, start_epoch=3), rows(5, 4)
    waiting = made({"final": z}, Progress(epoch=2))
    assert torch.equal(waiting.logits["final"], z)
    assert not waiting.terms
    waiting.logits["final"].sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in made.parameters())
    assert not torch.allclose(made({"final": z}, Progress(epoch=3)).logits["final"], z)


def test_anchors() -> None:
    z, labels = rows(5, 4), torch.tensor([0, 1, 2, 3, 0])
    for anchor in ("ce", "kl"):
        made = simplifier(4, zero_init_out=False, anchor=anchor, anchor_weight=0.5)
        result = made({"final": z}, targets=labels)
        simple = made.simplify("final", z / 2)
        expected = F.cross_entropy(2 * simple, labels) if anchor == "ce" else kl_divergence(simple, z / 2)
        torch.testing.assert_close(result.penalty, 0.5 * expected)
        torch.testing.assert_close(result.terms["anchor"], expected.detach())
        assert made.needs_targets == (anchor == "ce")
    assert simplifier(4)({"final": z}).penalty is None


def test_each_set_of_logits_has_its_terms_and_weights_may_be_shared() -> None:
    z = rows(5, 4)
    both = {"final": z, "stage1": z}
    apart = simplifier(4, ("final", "stage1"), zero_init_out=False)
    result = apart(both)
    assert set(result.terms) == {"agreement", "change", "agreement_stage1", "change_stage1"}
    assert not torch.equal(result.logits["final"], result.logits["stage1"])
    shared = simplifier(4, ("final", "stage1"), zero_init_out=False, shared=True)(both).logits
    assert torch.equal(shared["final"], shared["stage1"])


def test_without_residual_the_joint_objective_leaves_the_teacher_and_the_guard_warns_once(
    warnings: list[str],
) -> None:
    torch.manual_seed(0)
    z_t = 6 * torch.randn(40, 10, dtype=torch.float64)
    made = simplifier(10, residual=False, zero_init_out=False, temperature=4.0)
    z_s = torch.zeros(40, 10, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([z_s, *made.parameters()], lr=0.02)
    start = made({"final": z_t})
    for _ in range(150):
        optimizer.zero_grad()
        loss_of(made, z_s, z_t).backward()
        optimizer.step()
    end = made({"final": z_t})
    assert float(loss_of(made, z_s, z_t)) < 0.05
    assert float(end.terms["agreement"]) < 50
    for _ in range(2):
        made.watch({name: float(value) for name, value in end.terms.items()})
    assert len(warnings) == 1
    assert "no longer agrees with the teacher" in warnings[0]
    made.guard = "stop"
    with pytest.raises(CollapseError, match="below min_agreement=50"):
        made.watch({"agreement": 49.0})
    made.guard = "off"
    made.watch({"agreement": 0.0})
    assert float(start.terms["change"]) >= 0


def test_extreme_logits_in_half_precision() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        for tokens in ("batch", "class"):
            made = simplifier(10, tokens=tokens, zero_init_out=False, anchor="kl").float()
            z = rows(6, 10, size=1e4).to(dtype)
            student = rows(6, 10, pace=1.7, size=1e4).to(dtype).requires_grad_()
            result = made({"final": z})
            loss = KDLoss(temperature=2.0)(Observation(logits=student), Observation(logits=result.logits["final"]))
            (loss + result.penalty).backward()
            assert torch.isfinite(loss)
            assert all(torch.isfinite(term) for term in result.terms.values())
            assert all(torch.isfinite(p.grad).all() for p in [student, *made.parameters()])


# -- several processes ---------------------------------------------------------------------------------------------


def gathered(rank: int) -> Tensor:
    made = simplifier(4, zero_init_out=False, scope="gathered")
    return made({"final": rows(6, 4)[3 * rank : 3 * rank + 3]}).logits["final"].detach()


def test_gathered_tokens_are_those_of_all_processes(tmp_path: Path) -> None:
    found = torch.cat(in_group(2, gathered, tmp_path))
    alone = simplifier(4, zero_init_out=False)({"final": rows(6, 4)}).logits["final"]
    torch.testing.assert_close(found, alone.detach())


# -- wrong options -------------------------------------------------------------------------------------------------


def test_wrong_options() -> None:
    for options, message in (
        ({"tokens": "pixels"}, "tokens='pixels' is unknown; choose one of 'batch', 'class'"),
        ({"temperature": 0}, "temperature=0 must be above 0"),
        ({"guard": "shout"}, "choose one of 'warn', 'stop', 'off'"),
        ({"scope": "gathered", "layers": 2}, "goes with layers=1"),
        ({"dim": 5, "heads": 2}, "dim=5 is not a multiple of heads=2"),
    ):
        assert_refused(message, simplifier, 4, **options)


def test_options_that_do_not_fit_the_logits() -> None:
    for options, setting, message in (
        ({"anchor": "ce"}, ({"final": 4}, frozenset(), False), "use anchor='kl'"),
        ({"soften": "prob"}, ({"final": 4}, frozenset({"final"}), True), "final is sigmoids"),
        ({"shared": True}, ({"final": 5, "stage1": 4}, frozenset(), True), "equal numbers of classes"),
    ):
        with pytest.raises(ValueError, match=message):
            LearningSimplifier(**options).setup(*setting)
