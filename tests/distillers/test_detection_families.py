"""MTKD-SSR between detectors of every kind, and for students whose backbone is of another family than the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from mmengine.structures import InstanceData

from tests.devices import DEVICES

from ..helpers.errors import assert_refused
from .conftest import total
from .detectors import (
    CELLS,
    CLASSES,
    KD,
    batch,
    build,
    cascade,
    faster,
    losses_of,
    predict,
    resnet,
    retina,
    two_stage,
    upstream,
)

Network = Callable[[int], Any]


def dense(config: str) -> Network:
    """A dense detector on a narrow ResNet that keeps detections of any score."""

    def network(width: int) -> Any:
        full = resnet(f"mmdet::{config}", width, share=8)  # heads normalise in 32 groups
        full.test_cfg.score_thr = 0.0
        return full

    return network


def without_neck(width: int) -> Any:
    """C4: its shared head has the widths of a full ResNet-18."""
    full = two_stage(upstream("mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py"))
    full.backbone.update(depth=18, base_channels=64)
    full.roi_head.shared_head.update(depth=18)
    full.rpn_head.in_channels = full.roi_head.bbox_roi_extractor.out_channels = 256
    full.roi_head.bbox_head.in_channels = 512
    full.test_cfg.rcnn.score_thr = 0.0
    full.train_cfg.rcnn.sampler.num = 4
    full.train_cfg.rpn_proposal.max_per_img = full.test_cfg.rpn.max_per_img = 4
    return full


def ssd(width: int) -> Any:
    full = upstream("mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py", share=1)
    full.backbone.widen_factor = width / 64
    channels = [{8: 16, 16: 24}[width], 1280]
    full.neck.update(in_channels=channels, out_channels=[*channels, 32, 32, 32, 32])
    full.bbox_head.in_channels = full.neck.out_channels
    return full


def one_by_scale(config: str, share: int) -> Network:
    """A detector whose widths follow from one factor."""

    def network(width: int) -> Any:
        full = upstream(f"mmdet::{config}", share)
        # A width of 8 is an eighth of the published network's.
        full.backbone.update(widen_factor=width / 64, deepen_factor=0.167)
        full.neck.in_channels = [int(channels * width / 64) for channels in (256, 512, 1024)]
        full.test_cfg.score_thr = 0.0
        return full

    return network


def queries(config: str) -> Network:
    def network(width: int) -> Any:
        full = resnet(f"mmdet::{config}", width)
        full.bbox_head.embed_dims = full.neck.out_channels
        return full

    return network


def sparse(width: int) -> Any:
    """Its RoI heads ask for queries beside regions, so it has no logits that others could share."""
    full = resnet("mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py", width)
    full.rpn_head.update(num_proposals=12, proposal_feature_channel=16)
    full.roi_head.proposal_feature_channel = 16
    full.roi_head.num_stages = 2
    full.roi_head.bbox_head = full.roi_head.bbox_head[:2]
    full.roi_head.stage_loss_weights = [1, 1]
    full.train_cfg.rcnn = full.train_cfg.rcnn[:2]
    return full


def trident(width: int, branch: int = 1) -> Any:
    """Three branches in training, one in inference; its RoI head reads the backbone, which is narrow then."""
    full = two_stage(upstream("mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py"))
    full.backbone.update(base_channels=width, test_branch_idx=branch)
    del full.roi_head.shared_head
    full.roi_head.test_branch_idx = branch
    full.rpn_head.in_channels = full.roi_head.bbox_roi_extractor.out_channels = 16 * width
    full.roi_head.bbox_roi_extractor.roi_layer.output_size = 7
    full.roi_head.bbox_head.in_channels = 16 * width
    full.test_cfg.rcnn.score_thr = 0.0
    return full


FAMILIES: dict[str, tuple[Network, int]] = {
    "Faster R-CNN": (faster, 96),
    "Cascade R-CNN": (cascade, 96),
    "Faster R-CNN C4": (without_neck, 96),
    "RetinaNet": (retina, 96),
    "FCOS": (dense("fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"), 96),
    "ATSS": (dense("atss/atss_r50_fpn_1x_coco.py"), 96),
    "GFL": (dense("gfl/gfl_r50_fpn_1x_coco.py"), 96),
    "SSD": (ssd, 128),
    "YOLOX": (one_by_scale("yolox/yolox_s_8xb8-300e_coco.py", 8), 96),
    "RTMDet": (one_by_scale("rtmdet/rtmdet_l_8xb32-300e_coco.py", 8), 96),
    "Sparse R-CNN": (sparse, 96),
    "Deformable DETR": (queries("deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"), 96),
    "DINO": (queries("dino/dino-4scale_r50_8xb2-12e_coco.py"), 96),
}


def trains_and_predicts(model: Any, size: int) -> None:
    """One step: every loss is there and finite, each of ours reaches the student, which then still detects."""
    model.train()
    model.check_next_step = True  # stops at a loss that does not reach the student
    losses = losses_of(model, size=size)
    ours = {f"loss_{name}" for name in model.losses}
    assert {"loss_aux", "loss_scd", "loss_srd", "loss_review"} <= ours <= set(losses)
    assert len(losses) > 2 * len(ours)
    for name in ours:
        assert float(losses[name]) > 0
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    loss = total(losses)
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    for part in model.objective.children():
        assert all(p.grad is not None for p in part.parameters())
    optimizer.step()
    found = predict(model, size=size)
    assert len(found) == 2
    for one in found:
        assert len(one)
        assert torch.isfinite(one.bboxes).all()
        assert one.bboxes.shape == (len(one.scores), 4)
        assert one.labels.max() < CLASSES
    data = model.data_preprocessor(batch(size), False)
    hits, objects = model.task.score(model.student, data["inputs"], data["data_samples"])
    assert 0 <= hits <= objects == 4


#: Each like another family of every run; `make test-families` tries them.
REST = ("Cascade R-CNN", "ATSS", "GFL", "Deformable DETR")


def marked(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.families if name in REST else ()) for name in names]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", marked(FAMILIES))
def test_every_family_trains_and_predicts(family: str, device: str) -> None:
    network, size = FAMILIES[family]
    model = build(network(8), network(16), CELLS, input_size=size)
    assert len(model.stages) >= 2
    assert len(model.exit_stages) >= 2
    assert all(stage.tap.startswith("backbone.") for stage in model.exit_stages)
    levels = {"backbone.layer3", "backbone.layer4"} if family == "Faster R-CNN C4" else {"neck[0]", "neck[1]"}
    assert levels & {stage.tap for stage in model.stages}
    assert ("own" in model.losses) == (family not in ("Sparse R-CNN", "Deformable DETR", "DINO"))
    trains_and_predicts(model.to(device), size)


def test_a_region_proposal_network_learns_and_is_scored_by_one_class() -> None:
    def rpn(width: int) -> Any:
        return two_stage(resnet("mmdet::rpn/rpn_r50_fpn_1x_coco.py", width))

    model = build(rpn(8), rpn(16), CELLS)
    data = model.data_preprocessor(batch(), True)
    targets = model.task.targets(data["data_samples"])  # of classes 0 and 2, and an ignored object of class 1
    assert targets.present.tolist() == [[1], [1]]
    assert [labels.tolist() for labels in targets.labels] == [[0, 0], [0, 0]]
    assert targets.valid.tolist() == [[1], [1]]
    trains_and_predicts(model, 96)
    for sample, found in zip(data["data_samples"], predict(model), strict=True):
        best = found[found.scores.argsort(descending=True)[:2]]
        sample.gt_instances = InstanceData(bboxes=best.bboxes, labels=torch.tensor([2, 1]))
    assert model.task.score(model.student, data["inputs"], data["data_samples"]).tolist() == [4, 4]


def test_tridentnet_learns_on_the_branch_that_is_deployed() -> None:
    model = build(trident(8), faster(16))
    assert [stage.tap for stage in model.stages] == ["backbone.layer2", "backbone.layer3"]
    recorded: dict[str, torch.Tensor] = {}
    model.student.backbone.layer3.register_forward_hook(lambda _m, _a, out: recorded.update(out=out))
    model.objective.connectors["teacher"]["2"].register_forward_hook(lambda _m, args, _o: recorded.update(read=args[0]))
    losses_of(model.train())
    assert len(recorded["out"]) == 6
    assert torch.equal(recorded["read"], recorded["out"][2:4])
    trains_and_predicts(model, 96)


@pytest.mark.parametrize("teaches", [False, True])
def test_regions_of_all_branches_of_tridentnet_are_compared_on_their_image(teaches: bool) -> None:
    pair = (faster(), trident(8)) if teaches else (trident(8), faster())
    model = build(*pair, KD)
    teacher = model.teachers["teacher"].model
    recorded: dict[str, torch.Tensor] = {}
    for name, network in (("student", model.student), ("teacher", teacher)):
        network.roi_head.bbox_roi_extractor.register_forward_hook(
            lambda _m, args, _o, name=name: recorded.update({name: args[1]})
        )
    assert torch.isfinite(losses_of(model.train())["kd"])
    assert set(recorded["student"][:, 0].tolist()) == (set(range(2)) if teaches else set(range(6)))
    assert torch.equal(recorded["teacher"][:, 0], recorded["student"][:, 0] % 2)
    assert torch.equal(recorded["teacher"][:, 1:], recorded["student"][:, 1:])


def test_logits_of_queries_are_refused() -> None:
    for family, message in (
        ("Sparse R-CNN", r"SparseRCNN \(SparseRoIHead\)"),
        ("Deformable DETR", r"DeformableDETR \(DeformableDETRHead\)"),
        ("DINO", r"DINO \(DINOHead\)"),
    ):
        network, size = FAMILIES[family]
        with pytest.raises(ValueError, match=rf"{message} has no class logits .* use losses on stages"):
            build(retina(), network(8), KD, input_size=size)
        assert_refused(message, build, network(8), network(8), KD, input_size=size)


def test_upstreams_own_distillations_and_heads_that_need_more_than_regions() -> None:
    own = resnet("mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py", share=8)
    own |= {"teacher_config": {"model": dense("gfl/gfl_r50_fpn_1x_coco.py")(8)}, "teacher_ckpt": None}
    with pytest.raises(ValueError, match="is a distillation of upstream's, with a teacher of its own: distil its"):
        build(own, retina(), CELLS)
    assert len(build(retina(), own, CELLS).stages) >= 2
    full = two_stage(resnet("mmdet::htc/htc_r50_fpn_1x_coco.py"))
    full.roi_head.semantic_head.update(conv_out_channels=16)
    assert_refused("HybridTaskCascadeRoIHead", build, full, faster(), KD)
    assert len(build(full, faster()).stages) == 4


def test_what_trains_around_a_detector_or_deploys_several_branches_is_refused() -> None:
    for student, message in (
        ({"type": "QDTrack"}, r"QDTrack is a tracker: distil its detector"),
        (
            {"type": "SoftTeacher", "semi_train_cfg": {"freeze_teacher": True}},
            r"SoftTeacher is semi-supervised, .*: distil its detector",
        ),
    ):
        assert_refused(message, build, {**student, "detector": retina()}, retina())
    for teaches in (False, True):
        pair = (faster(), trident(8, -1)) if teaches else (trident(8, -1), faster())
        assert_refused(r"all of its branches in inference \(test_branch_idx=-1\)", build, *pair)
    head = {"type": "LinearReIDHead", "num_fcs": 1, "in_channels": 512, "fc_channels": 64, "out_channels": 32}
    head |= {"num_classes": 4, "loss_cls": {"type": "mmpretrain.CrossEntropyLoss"}}
    network = {"type": "BaseReID", "backbone": {"type": "mmpretrain.ResNet", "depth": 18}, "head": head}
    network |= {
        "neck": {"type": "mmpretrain.GlobalAveragePooling"},
        "data_preprocessor": {"type": "ReIDDataPreprocessor"},
    }
    with pytest.raises(ValueError, match=r"BaseReID is a tracker's re-ID network, .* no logits: distil a kd_mm\.ReID"):
        build(network, network, KD)


def test_background_of_a_softmax_head_does_not_weigh() -> None:
    model = build(ssd(8), ssd(16), KD, input_size=128)
    recorded: dict[str, torch.Tensor] = {}
    for name, network in (("student", model.student), ("teacher", model.teachers["teacher"].model)):
        network.bbox_head.register_forward_hook(lambda _m, _a, out, name=name: recorded.update({name: out[0]}))
    value = float(losses_of(model.train(), size=128)["kd"])
    z_s, z_t = (
        torch.cat([level.permute(0, 2, 3, 1).reshape(2, -1, CLASSES + 1) for level in recorded[name]], dim=1).double()
        for name in ("student", "teacher")
    )
    p, q = z_t.softmax(dim=-1), z_s.softmax(dim=-1)
    weight = p[..., :CLASSES].amax(dim=-1)
    divergence = (p * (p / q).log()).sum(dim=-1)
    assert value == pytest.approx(float((weight * divergence).sum() / weight.sum()), rel=1e-3)


def yolo_v3() -> Any:
    full = upstream("mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py", share=1)
    full.neck.out_channels = full.bbox_head.in_channels = full.bbox_head.out_channels = [16, 16, 16]
    return full


def by_anchor(maps: Iterable[torch.Tensor], width: int) -> torch.Tensor:
    return torch.cat([level.permute(0, 2, 3, 1).reshape(2, -1, width) for level in maps], dim=1).double().sigmoid()


def scores_of_v3(outputs: Any) -> torch.Tensor:
    found = by_anchor(outputs[0], 5 + CLASSES)
    return found[..., 4:5] * found[..., 5:]


def scores_of_x(outputs: Any) -> torch.Tensor:
    return by_anchor(outputs[0], CLASSES) * by_anchor(outputs[2], 1)


@pytest.mark.parametrize(
    ("network", "scores_of", "layers"),
    [
        (yolo_v3, scores_of_v3, ["convs_pred"]),
        (lambda: FAMILIES["YOLOX"][0](8), scores_of_x, ["multi_level_conv_cls", "multi_level_conv_obj"]),
    ],
    ids=["YOLOv3", "YOLOX"],
)
def test_scores_of_classes_and_objects_are_compared(network: Any, scores_of: Any, layers: list[str]) -> None:
    model = build(network(), network(), KD)
    scores: dict[str, torch.Tensor] = {}
    for name, one in (("student", model.student), ("teacher", model.teachers["teacher"].model)):
        one.bbox_head.register_forward_hook(
            lambda _m, _a, out, name=name: scores.update({name: scores_of(out).clamp(1e-30, 1 - 1e-6)})
        )
    losses = losses_of(model.train())
    q, p = scores["student"], scores["teacher"]
    divergence = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(dim=-1)
    weight = p.amax(dim=-1)
    assert float(losses["kd"]) == pytest.approx(float((weight * divergence).sum() / weight.sum()), rel=1e-3)
    losses["loss_kd"].backward()
    assert all(layer.weight.grad.any() for name in layers for layer in getattr(model.student.bbox_head, name))


def test_scores_of_yolo_v3_are_compared_at_equal_anchors_alone() -> None:
    other = yolo_v3()
    other.bbox_head.anchor_generator.base_sizes[0][0] = (200, 100)
    assert_refused(
        "teacher 'teacher': YOLOV3Head and YOLOV3Head have other strides, anchors", build, yolo_v3(), other, KD
    )


#: Backbone and settings of the neck of students of other families.
BACKBONES = {
    "MobileNetV2": ({"widen_factor": 0.25, "out_indices": (1, 2, 4, 6)}, {"in_channels": [8, 8, 24, 80]}),
    "PyramidVisionTransformer": (
        {"embed_dims": 8, "num_layers": [1, 1, 1, 1], "pretrain_img_size": 96},
        {"in_channels": [8, 16, 40, 64]},
    ),
    "SwinTransformer": (
        {"embed_dims": 12, "depths": (1, 1, 1, 1), "out_indices": (1, 2, 3)},
        {"in_channels": [24, 48, 96], "start_level": 0},
    ),
}


@pytest.mark.parametrize("kind", BACKBONES)
def test_students_of_another_backbone_family(kind: str) -> None:
    backbone, neck = BACKBONES[kind]
    student = retina()
    student.backbone = {"type": kind, **backbone}
    student.neck.update(neck)
    model = build(student, retina(8, depth=50))
    pairs = model.stage_pairs["teacher"]
    assert [b.tap for _, b in pairs] == [f"backbone.layer{i}" for i in range(1, 5)]
    assert [a.stride for a, _ in pairs] == [b.stride for _, b in pairs]
    trains_and_predicts(model, 96)
