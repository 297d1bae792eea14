"""The contracts of a Distiller between two detectors: a two-stage and a dense one, tiny."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kd_mm.engine import Bf16OptimWrapper
from kd_mm.hooks.report import distillation_report
from kd_mm.preparation import ExitTraining
from kd_mm.tasks import DetectionTask

from ..helpers.compare import same
from ..helpers.errors import assert_refused
from .conftest import count_calls, gradients, total
from .detectors import (
    CELLS,
    KD,
    LD,
    MTKD,
    batch,
    build,
    cascade,
    faster,
    losses_of,
    only,
    plain,
    predict,
    retina,
)

NETWORKS = {"faster": faster, "retina": retina}


@pytest.fixture(params=list(NETWORKS))
def network(request: pytest.FixtureRequest) -> Any:
    return NETWORKS[request.param]


def pair(network: Any, recipe: Any = MTKD, **config: Any) -> Any:
    return build(network(8), network(12), recipe, **config)


# -- parity with the plain detector ---------------------------------------------------------------------------------


def test_zero_weights_equal_the_plain_detector_bit_for_bit(network: Any) -> None:
    zero = {**MTKD, "losses": {name: {**loss, "loss_weight": 0} for name, loss in MTKD["losses"].items()}}
    detector, distiller = plain(network()), pair(network, zero)
    assert same(detector.state_dict(), distiller.state_dict())
    assert not distiller.teachers
    for _ in range(2):
        ours, reference = losses_of(distiller.train()), losses_of(detector.train())
        assert same(ours, reference)
        for model, losses in ((distiller, ours), (detector, reference)):
            optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
            optimizer.zero_grad()
            total(losses).backward()
            optimizer.step()
        assert same(gradients(detector), gradients(distiller.student))
    assert same(detector.state_dict(), distiller.state_dict())


@pytest.mark.parametrize("recipe", [MTKD, KD], ids=["mtkd", "kd"])
def test_distillation_leaves_the_detectors_own_losses_as_they_are(network: Any, recipe: Any) -> None:
    own = losses_of(plain(network()).train())
    losses = losses_of(pair(network, recipe).train())
    assert same(own, {name: losses[name] for name in own})
    assert {f"loss_{name}" for name in recipe["losses"]} <= set(losses)


# -- the teacher ----------------------------------------------------------------------------------------------------


def parts_of(detector: Any) -> dict[str, nn.Module]:
    parts = {f"layer{i}": getattr(detector.backbone, f"layer{i}") for i in (1, 2, 3, 4)}
    parts |= {name: getattr(detector, name) for name in ("neck", "rpn_head", "bbox_head") if hasattr(detector, name)}
    return parts | ({"roi_head": detector.roi_head.bbox_head} if hasattr(detector, "roi_head") else {})


def calls_of_the_teacher(model: Any) -> dict[str, int]:
    calls = count_calls(parts_of(model.teachers["teacher"].model))
    losses_of(model.train())
    return calls


BACKBONE = {"layer1": 1, "layer2": 1, "layer3": 1, "layer4": 1}


def test_teacher_runs_no_deeper_than_its_deepest_tap() -> None:
    assert calls_of_the_teacher(pair(retina)) == {**BACKBONE, "neck": 0, "bbox_head": 0}
    assert calls_of_the_teacher(pair(faster)) == {**BACKBONE, "neck": 0, "rpn_head": 0, "roi_head": 0}
    shallow = only(MTKD, "scd")
    shallow["losses"] = {"scd": {**shallow["losses"]["scd"], "stages": [1, 2]}}
    calls = calls_of_the_teacher(pair(retina, shallow))
    assert calls == {"layer1": 1, "layer2": 1, "layer3": 0, "layer4": 0, "neck": 0, "bbox_head": 0}
    # Its own logits: its head runs once, and it proposes nothing.
    assert calls_of_the_teacher(pair(faster, KD)) == {**BACKBONE, "neck": 1, "rpn_head": 0, "roi_head": 1}
    assert calls_of_the_teacher(pair(retina, KD)) == {**BACKBONE, "neck": 1, "bbox_head": 1}


@pytest.mark.parametrize("normalised", [True, False])
def test_input_is_renormalised_for_the_teacher(normalised: bool) -> None:
    reference = retina(12)
    settings = {"mean": [10.0, 20.0, 30.0], "std": [1.0, 2.0, 3.0], "bgr_to_rgb": False} if normalised else {}
    reference.data_preprocessor = {"type": "DetDataPreprocessor", "pad_size_divisor": 32, **settings}
    model = build(retina(8), reference)
    teacher = model.teachers["teacher"]
    own = model.data_preprocessor(batch(), False)["inputs"]
    expected = teacher.model.data_preprocessor(batch(), False)["inputs"]
    assert not torch.allclose(own, expected.float(), atol=1.0)
    torch.testing.assert_close(teacher.preprocess(own), expected.float(), rtol=1e-5, atol=1e-4 if normalised else 1e-3)


# -- stages ---------------------------------------------------------------------------------------------------------


def test_stages_are_the_backbones_except_for_frozen_ones(network: Any) -> None:
    model = pair(network)
    assert isinstance(model.task, DetectionTask)
    assert [stage.tap for stage in model.stages] == [f"backbone.layer{i}" for i in (1, 2, 3, 4)]
    assert [stage.stride for stage in model.stages] == [4, 8, 16, 32]
    assert list(model.objective.exits) == list(model.teachers["teacher"].exits) == ["1", "2", "3", "4"]
    assert list(model.objective.connectors["teacher"]) == ["1", "2", "3", "4"]
    model = build(network(8, frozen=2), network(12))
    pairs = [(a.tap, b.tap) for a, b in model.stage_pairs["teacher"]]
    assert pairs == [(f"backbone.layer{i}", f"backbone.layer{i}") for i in (3, 4)]
    total(losses_of(model.train())).backward()
    frozen = [p for i in (1, 2) for p in getattr(model.backbone, f"layer{i}").parameters()]
    assert all(p.grad is None for p in frozen)
    with pytest.raises(ValueError, match="every weight of the student's backbone is frozen"):
        build(network(8, frozen=4), network(12))


def test_levels_of_the_neck_are_stages_by_name(network: Any) -> None:
    levels = [f"neck[{i}]" for i in range(5)]
    model = pair(network, only(MTKD, "scd"), stages=levels)
    assert [stage.tap for stage in model.stages] == levels
    strides = [4, 8, 16, 32, 48] if network is faster else [8, 16, 32, 48, 96]  # 3 cells are halved to 2
    assert [stage.stride for stage in model.stages] == strides
    assert {stage.channels for stage in model.stages} == {16}
    calls = calls_of_the_teacher(model)
    assert calls["neck"] == 1
    assert not any(count for name, count in calls.items() if "head" in name)
    losses_of(model)["loss_scd"].backward()
    reached = {key.split(".")[1] for key, gradient in gradients(model).items() if gradient.any()}
    assert reached == {"backbone", "neck", "connectors"}


@pytest.mark.parametrize("align", ["from_deep", "from_shallow"])
def test_levels_of_equal_stride_are_matched(align: str) -> None:
    """A student of the levels 3 to 5 with a teacher of 2 to 6, and the other way round."""
    short = retina(8)
    short.neck.num_outs, short.bbox_head.anchor_generator.strides = 3, [8, 16, 32]
    recipe = {"stage_source": "neck", "stage_align": align, "losses": {"pkd": {"type": "kd_mm.PKDLoss"}}}
    expected = [(f"neck[{level}]", f"neck[{level + 1}]") for level in range(3)]
    for student, teacher, turned in ((short, faster(12), False), (faster(12), short, True)):
        pairs = build(student, teacher, recipe).stage_pairs["teacher"]
        assert [(a.tap, b.tap)[:: -1 if turned else 1] for a, b in pairs] == expected


@pytest.mark.parametrize(("network", "recipe"), [(faster, MTKD), (retina, MTKD), (faster, KD)])
def test_images_without_objects(network: Any, recipe: Any) -> None:
    model = pair(network, recipe)
    for images in (1, 2):
        loss = total(losses_of(model.train(), images=images, empty=True))
        assert torch.isfinite(loss)
        loss.backward()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())


# -- the detectors' own logits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [KD, LD, {"losses": {"ld": {**LD["losses"]["ld"], "box": "l1"}}}])
def test_a_teacher_that_is_the_student_teaches_nothing(network: Any, recipe: Any) -> None:
    student = network(8)
    model = build(student, student, recipe)
    teacher, (name,) = model.teachers["teacher"].model, recipe["losses"]
    teacher.load_state_dict(model.student.state_dict())
    assert float(losses_of(model.train())[name]) == pytest.approx(0.0, abs=1e-5)
    with torch.no_grad():
        teacher.backbone.conv1.weight.mul_(1.5)
    assert float(losses_of(model)[name]) > 0


def test_teacher_sees_the_regions_that_the_student_sampled() -> None:
    model = pair(faster, KD)
    recorded: dict[str, torch.Tensor] = {}
    for name, network in (("student", model.student), ("teacher", model.teachers["teacher"].model)):
        extractor = network.roi_head.bbox_roi_extractor
        extractor.register_forward_hook(lambda _m, args, _o, name=name: recorded.update({name: args[1]}))
        network.roi_head.bbox_head.register_forward_hook(
            lambda _m, _a, out, name=name: recorded.update({f"z{name}": out[0]})
        )
    losses = losses_of(model.train())
    assert torch.equal(recorded["student"], recorded["teacher"])
    p, q = recorded["zteacher"].detach().double().softmax(dim=1), recorded["zstudent"].detach().double().softmax(dim=1)
    assert float(losses["kd"]) == pytest.approx(float((p * (p / q).log()).sum() / len(p)), rel=1e-4)


def test_dkd_takes_the_labels_that_the_student_gives_its_regions() -> None:
    model = pair(faster, {"losses": {"dkd": {"type": "kd_mm.DKDLoss", "temperature": 1.0, "beta": 0.25}}})
    recorded: dict[str, torch.Tensor] = {}
    model.student.roi_head.bbox_head.loss_cls.register_forward_pre_hook(
        lambda _m, args: recorded.update(student=args[0], labels=args[1])
    )
    model.teachers["teacher"].model.roi_head.bbox_head.register_forward_hook(
        lambda _m, _a, out: recorded.update(teacher=out[0])
    )
    losses = losses_of(model.train())
    labels, background = recorded["labels"], 3
    assert 0 < int((labels < background).sum()) < len(labels)
    p, q = (recorded[side].detach().double().softmax(dim=1).numpy() for side in ("teacher", "student"))
    expected = 0.0
    for row, label in enumerate(labels.tolist()):
        one = [(logits[row, label], 1 - logits[row, label]) for logits in (p, q)]
        rest = [np.delete(logits[row], label) / (1 - logits[row, label]) for logits in (p, q)]
        expected += sum(a * np.log(a / b) for a, b in zip(*one, strict=True))
        expected += 0.25 * float((rest[0] * np.log(rest[0] / rest[1])).sum())
    assert float(losses["dkd"]) == pytest.approx(expected / len(labels), rel=1e-4)


@pytest.mark.parametrize(("student", "teacher"), [(cascade, faster), (faster, cascade), (cascade, cascade)])
def test_cascades_teach_and_learn_by_their_first_stage(student: Any, teacher: Any) -> None:
    model = build(student(8), teacher(12), KD)
    losses = losses_of(model.train())
    assert float(losses["kd"]) > 0
    losses["loss_kd"].backward()
    assert any("roi_head" in name for name, gradient in gradients(model).items() if gradient.any())


# -- what does not fit ----------------------------------------------------------------------------------------------


def classes(network: Any, count: int) -> Any:
    full = network(12)
    (full.roi_head if "roi_head" in full else full).bbox_head.num_classes = count
    return full


@pytest.mark.parametrize("recipe", [MTKD, KD], ids=["mtkd", "kd"])
def test_unequal_classes_are_refused(network: Any, recipe: Any) -> None:
    assert_refused(r"3 classes.*(over|has) 5", build, network(8), classes(network, 5), recipe)


def test_unequal_classes_do_not_matter_to_features(network: Any) -> None:
    model = build(network(8), classes(network, 5), only(MTKD, "scd"))
    assert torch.isfinite(losses_of(model.train())["scd"])


def test_logits_of_different_kinds_and_grids_are_refused() -> None:
    other = retina(12)
    other.bbox_head.anchor_generator.scales_per_octave = 2
    with pytest.raises(
        ValueError, match=r"student has logits at \d+ grid positions over 3 classes, teacher 'teacher' at \d+"
    ) as caught:
        build(retina(8), other, KD)
    assert "losses on stages" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert_refused("student has one row of logits a region, teacher", build, faster(8), retina(12), KD)
    assert_refused("student has one row of logits a grid position, teacher", build, retina(8), faster(12), KD)
    assert torch.isfinite(total(losses_of(build(retina(8), faster(12)).train())))


def test_resized_teachers_do_not_classify_regions() -> None:
    options = {"input_size": (64, 64)}
    assert_refused("input_size resizes the batch", pair, faster, KD, options=options)
    assert torch.isfinite(total(losses_of(pair(faster, options=options).train())))


# -- the engine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("network", "recipe"), [(faster, MTKD), (retina, KD)])
def test_bf16_autocast_on_the_cpu(network: Any, recipe: Any) -> None:
    model = pair(network, recipe)
    wrapper = Bf16OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.01))
    before = copy.deepcopy(model.student.state_dict())
    model.train()
    torch.manual_seed(3)
    out = model.train_step(batch(), wrapper)
    assert all(torch.isfinite(value).all() for value in out.values())
    assert all(out[name].dtype == torch.float32 for name in recipe["losses"])
    assert not same(before, model.student.state_dict())
    exact = losses_of(pair(network, recipe).train())
    for name in recipe["losses"]:
        assert float(out[name]) == pytest.approx(float(exact[name]), rel=0.3, abs=1e-3)


def test_first_step_is_checked(network: Any) -> None:
    model = pair(network, KD)
    model.check_next_step = True
    with torch.no_grad():
        model.teachers["teacher"].model.backbone.conv1.weight.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="loss 'kd' is not finite"):
        losses_of(model.train())


# -- stage logits by cell -------------------------------------------------------------------------------------------


def test_exits_classify_cells_of_the_backbone_and_maps_are_those_of_the_neck(network: Any) -> None:
    model = pair(network, {**CELLS, "exits": {**CELLS["exits"], "grid_stride": 32}})
    assert [stage.tap for stage in model.exit_stages] == [f"backbone.layer{i}" for i in (1, 2, 3, 4)]
    assert [stage.tap for stage in model.stages] == [f"neck[{i}]" for i in range(5)]
    assert list(model.objective.exits) == list(model.teachers["teacher"].exits) == ["1", "2", "3", "4"]
    assert not len(model.objective.connectors["teacher"]["1"].state_dict())  # both necks have the same width
    recorded: dict[str, torch.Tensor] = {}
    for i, each in model.objective.exits.items():
        each.register_forward_hook(lambda _m, _a, out, i=i: recorded.update({i: out.detach().double()}))
    losses = losses_of(model.train(), empty=True)
    # Cells of 32 pixels: the centres of the two objects of the first image are in the middle above and below.
    present = torch.zeros(2, 3, 3, 3).double()
    present[0, 0, 0, 1] = present[0, 2, 2, 1] = 1
    counted = torch.ones(2, 1, 3, 3).double()
    counted[:, :, 0, 2] = 0  # ignored objects alone
    expected = 0.0
    for z in recorded.values():
        p = z.sigmoid()
        focal = -present * (1 - p) ** 2 * p.log() - (1 - present) * p**2 * (1 - p).log()
        expected += float((focal * counted).sum() / 2)
    assert float(losses["aux"]) == pytest.approx(expected, rel=1e-5)
    total(losses).backward()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())


def test_equal_detectors_with_equal_exits_have_nothing_to_teach_each_other(network: Any) -> None:
    student = network(8)
    model = build(student, student, CELLS)
    teacher = model.teachers["teacher"]
    teacher.model.load_state_dict(model.student.state_dict())
    teacher.exits.load_state_dict(model.objective.exits.state_dict())
    for backbone in (model.student.backbone, teacher.model.backbone):
        backbone.norm_eval = True  # both normalise alike
    losses = losses_of(model.train())
    for name in ("srd", "own"):
        assert float(losses[name]) == pytest.approx(0.0, abs=1e-7)
    assert float(losses["scd"]) == pytest.approx(0.0, abs=1e-5)
    assert float(losses["review"]) > 0


def test_stages_whose_exit_of_the_teacher_is_at_chance_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    model = pair(retina, CELLS)
    training = ExitTraining(model, model.teachers["teacher"], "recipe: teacher_exits", model.recipe.teacher_exits)
    training.judge({"at_chance": []})
    parts = {"srd.stage1", "srd.stage2", "review.stage2to1", "review.stage3to2"}
    assert parts < set(losses_of(model.train()))
    capsys.readouterr()
    training.judge({"at_chance": ["stage 2"]})
    assert "review and srd leave out stage 2" in "".join(capsys.readouterr())
    losses = losses_of(model.train())
    assert not {name for name in losses if name.startswith(("srd", "review")) and "2" in name}
    assert {"srd.stage1", "review.stage3to1", "aux.stage2"} < set(losses)


def test_the_report_lists_maps_and_exits_apart() -> None:
    report = distillation_report(pair(retina, CELLS))
    maps, exits = report[report.index("Stages matched") : report.index("Losses")].split("Stages with exits")
    assert "neck[4]" in maps
    assert "student and teacher" not in maps
    assert exits.count("student and teacher") == 4
    assert "backbone.layer4" in exits


def test_own_logits_are_left_out_where_heads_cannot_be_compared() -> None:
    model = build(retina(8), faster(12), CELLS)
    assert set(model.losses) == {"aux", "scd", "cwd", "srd", "review"}
    assert torch.isfinite(total(losses_of(model.train())))


def test_losses_fit_what_the_exits_classify() -> None:
    with pytest.raises(ValueError, match=r"loss 'srd' \(StageResponseLoss\) reads logits of image"):
        pair(retina, {**only(MTKD, "srd"), "exits": CELLS["exits"]})
    with pytest.raises(ValueError, match=r"loss 'review' \(CellReviewLoss\) reads logits of cells"):
        pair(retina, {**CELLS, "exits": MTKD["exits"]})


def test_checkpoint_is_the_plain_detectors_and_what_distillation_owns(network: Any) -> None:
    detector, distiller = plain(network(), seed=5), pair(network)
    state = distiller.state_dict()
    own = {key for key in state if key.startswith("distill.")}
    assert set(state) - own == set(detector.state_dict())
    assert {key.split(".")[1] for key in own} == {"exits", "connectors"}
    detector.load_state_dict({key: value for key, value in state.items() if key not in own})
    assert same(detector.state_dict(), distiller.student.state_dict())
    distiller.load_state_dict(plain(network(), seed=6).state_dict(), strict=False)
    assert not same(detector.state_dict(), distiller.student.state_dict())


def test_predictions_are_the_plain_detectors(network: Any) -> None:
    detector, distiller = plain(network()), pair(network)
    detector.load_state_dict(distiller.student.state_dict())
    ours, reference = predict(distiller), predict(detector)
    for one, other in zip(ours, reference, strict=True):
        assert len(one)
        for key in ("bboxes", "scores", "labels"):
            assert torch.equal(one[key], other[key])
    assert not distiller.recorder._records
    data = distiller.data_preprocessor(batch(), False)
    assert distiller(**data, mode="tensor")


@pytest.mark.parametrize("name", ["LDLoss", "CrossKDLoss"])
@pytest.mark.parametrize("optional", [False, True])
def test_terms_of_incomparable_heads_are_left_out_where_they_may_be(optional: bool, name: str) -> None:
    recipe = {"losses": {"boxes": {"type": f"kd_mm.{name}", "optional": optional}, "pkd": {"type": "kd_mm.PKDLoss"}}}
    other = retina(12)
    other.bbox_head.anchor_generator.scales_per_octave = 1
    if optional:
        assert list(build(retina(8), other, recipe).losses) == ["pkd"]
    else:
        with pytest.raises(ValueError, match=r"levels of \(stride, anchors\) \[\(8, 9\)"):
            build(retina(8), other, recipe)


def test_a_split_that_is_given_has_to_fit() -> None:
    recipe = {"losses": {"crosskd": {"type": "kd_mm.CrossKDLoss", "optional": True, "split": 9}}}
    assert_refused("split=9, but the shorter tower of RetinaHead has", build, retina(8), retina(12), recipe)


def test_the_last_exit_alone_is_left_out() -> None:
    recipe = only(MTKD, "srd")
    recipe["losses"] = {"srd": {**recipe["losses"]["srd"], "include_last": False}}
    losses = losses_of(pair(retina, recipe).train())
    assert {name for name in losses if name.startswith("srd.")} == {f"srd.stage{i}" for i in (1, 2, 3)}
