"""The check of a config before anything is built: what it finds, and what it leaves to the builders."""

import copy
import functools
import re
from pathlib import Path
from typing import Any

import mmdet
import mmpretrain
import pytest
from mmengine.config import Config
from mmpretrain.models import ImageClassifier
from torch import nn

from kd_mm.apis.recipes import compose
from kd_mm.checks.config import check_config
from kd_mm.checks.unread import stale_variables, unread_keys
from kd_mm.utils.config import load_config
from kd_mm.utils.suggest import known_options

from ..helpers.errors import assert_refused

#: Configs whose components take options out of their parts before they build them, in ways of their own.
UPSTREAM = [
    "mmpretrain::resnet/resnet50_8xb32_in1k.py",
    "mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py",
    "mmpretrain::mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py",
    "mmpretrain::efficientnet/efficientnet-b0_8xb32_in1k.py",
    "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
    "mmdet::dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py",  # fallback_on_stride of a layer
    "mmdet::detr/detr_r50_8xb2-150e_coco.py",  # bg_cls_weight of a loss
    "mmdet::vfnet/vfnet_r50-mdconv-c3-c5_fpn_ms-2x_coco.py",  # a constructor that skips its base class
    "mmdet::timm_example/retinanet_timm-efficientnet-b1_fpn_1x_coco.py",  # options for another package
    "mmdet::yolox/yolox_s_8xb8-300e_coco.py",
    "mmdet::cascade_rpn/cascade-rpn_fast-rcnn_r50-caffe_fpn_1x_coco.py",
    "mmdet::faster_rcnn/faster-rcnn_r50_fpn_ohem_1x_coco.py",  # an option that a detector adds to a sampler
    "mmdet::maskformer/maskformer_swin-l-p4-w12_64xb1-ms-300e_coco.py",  # and to a decoder
    "mmpretrain::cae/cae_beit-base-p16_8xb256-amp-coslr-300e_in1k.py",  # a flag that takes a word
]


@pytest.mark.parametrize("path", UPSTREAM)
def test_configs_of_upstream_pass(path: str) -> None:
    check_config(load_config(path))


#: What upstream's own files have wrong, which the engine refuses, too; parts of configs; data that need more packages.
FAULTS = re.compile(
    r"give all three|give either type or by_epoch|there is no (model|file)|in custom_imports|'MOTChallengeMetrics'|"
    r"CocoMetric has no option 'eval_mode'|'MiniGPT4Dataset'|a run writes its config|"
    r"cannot be read|does not exist|See more information"  # bases that are not there, or that share keys
)


@pytest.mark.families
@pytest.mark.parametrize("package", [mmdet, mmpretrain])
def test_every_config_of_upstream_passes(package: Any) -> None:
    files = sorted(Path(package.__file__).parent.glob(".mim/configs/**/*.py"))
    assert len(files) > 500
    refused = {}
    for path in [path for path in files if "_base_" not in path.parts]:
        try:
            check_config(load_config(str(path)))
        except (FileNotFoundError, ValueError) as error:
            refused[path] = str(error)
    assert not {path: line for path, line in refused.items() if not FAULTS.search(line)}


shipped = functools.cache(load_config)


def read(**changes: Any) -> Config:
    config = copy.deepcopy(shipped("mmpretrain::resnet/resnet18_8xb16_cifar10.py"))
    config.merge_from_dict(changes)
    return config


EXIT = {"type": "kd_mm.SepConvExit", "stage": 1}
FOLDS = {"type": "KFoldDataset", "dataset": {"type": "CIFAR10"}}


def test_what_is_found() -> None:
    for changes, message in (
        ({"param_scheduler.gamma": "slow"}, r"param_scheduler\.gamma: 'slow' is no number"),
        ({"default_hooks.logger.intervall": 1}, r"default_hooks\.logger\.intervall: LoggerHook .* 'interval'\?"),
        ({"model.neck.type": "GlobalAvergePooling"}, r"model\.neck\.type: .* did you mean 'GlobalAveragePooling'\?"),
        ({"model.head.los": {"type": "CrossEntropyLoss"}}, r"model\.head\.los: LinearClsHead has no option 'los', did"),
        ({"model.head.loss.loss_weight": None}, r"model\.head\.loss\.loss_weight: None is no number"),
        ({"model.head.loss.loss_weight": [1.0]}, r"model\.head\.loss\.loss_weight: \[1\.0\] is no number"),
        (
            {"val_dataloader.collate_fn": {"type": "default_colate"}},
            r"val_dataloader\.collate_fn\.type: there is no 'default_colate', did you mean 'default_collate'\?",
        ),
        ({"model.head.loss.wieght": 1}, r"model\.head\.loss\.wieght: CrossEntropyLoss has no option"),
        (
            {"model.backbone.type": "kd_mm.QqqqqqqqqqqqqqqqqqqqQ"},
            r"model\.backbone\.type: there is no 'kd_mm\.QqqqqqqqqqqqqqqqqqqqQ'; is the module",
        ),
        ({"train_dataloader.dataset.type": "CIFRA10"}, r"train_dataloader\.dataset\.type: .* did you mean 'CIFAR10'\?"),
        (
            {"train_dataloader.dataset.pipeline.1.probe": 1},
            r"train_dataloader\.dataset\.pipeline\.1\.probe: RandomFlip .* did you mean 'prob'\?",
        ),
        ({"train_dataloader.sampler.shufle": True}, r"train_dataloader\.sampler\.shufle: DefaultSampler .* 'shuffle'"),
        (
            {"optim_wrapper.optimizer.type": "Adam"},
            r"optim_wrapper\.optimizer\.momentum: Adam has no option 'momentum'",
        ),
        (
            {"optim_wrapper.clip_grad": {"maxnorm": 9}},
            r"optim_wrapper\.clip_grad\.maxnorm: .* did you mean 'max_norm'\?",
        ),
        (
            {"optim_wrapper.clip_grad": {"max_norm": 0}},
            r"optim_wrapper\.clip_grad\.max_norm: 0 leaves nothing of a gra",
        ),
        (
            {"model.train_cfg": {"rpn": {"sampler": {"type": "RandomSampler", "num": 9, "pos_fraction": 0.5}}}},
            r"model\.train_cfg\.rpn\.sampler: it counts anchors, not proposals: set add_gt_as_proposals=False",
        ),
        ({"optim_wrapper.clip_grad": {"max_norm": "9"}}, r"optim_wrapper\.clip_grad\.max_norm: '9' is no number"),
        ({"param_scheduler.milestones": ["1", "2"]}, r"param_scheduler\.milestones: '1' in it is no number"),
        ({"param_scheduler.milestones": [0.5]}, r"param_scheduler\.milestones: 0\.5 is no whole number"),
        ({"param_scheduler.milestones": 3}, r"param_scheduler\.milestones: 3 is no list: write \[3\]"),
        ({"param_scheduler.gamma": -1}, r"param_scheduler\.gamma: -1 is less than 0"),
        ({"optim_wrapper.accumulative_counts": 0.5}, r"optim_wrapper\.accumulative_counts: 0\.5 is no whole number"),
        ({"optim_wrapper.accumulative_counts": None}, r"optim_wrapper\.accumulative_counts: None is no number"),
        ({"train_cfg.val_interval": 0}, r"train_cfg\.val_interval: 0 is less than 1"),
        ({"default_hooks.checkpoint.interval": 0.5}, r"default_hooks\.checkpoint\.interval: 0\.5 is no whole number"),
        ({"env_cfg.cudnn_bench": True}, r"env_cfg\.cudnn_bench: nothing reads .* did you mean 'cudnn_benchmark'\?"),
        ({"auto_scale_lr.base_batchsize": 8}, r"auto_scale_lr\.base_batchsize: .* did you mean 'base_batch_size'\?"),
        ({"randomness.seed": "lucky"}, r"randomness\.seed: 'lucky' is no integer"),
        ({"model.head.num_classes": "10"}, r"model\.head\.num_classes: '10' is no number"),
        (
            {"model.head.topk": (1, 50), "model.head.cal_acc": True},
            r"model\.head\.topk: 50 of 10 classes is not defined",
        ),
        (
            {"train_dataloader.dataset.test_mode": "flase"},
            r"train_dataloader\.dataset\.test_mode: 'flase' is neither True nor False",
        ),
        (
            {"train_dataloader.dataset": {**FOLDS, "_delete_": True, "fold": 5}},
            r"train_dataloader\.dataset\.fold: 5 is none of 5 folds, which count from 0",
        ),
        ({"val_evaluator.topks": 1}, r"val_evaluator\.topks: Accuracy has no option 'topks', did you mean 'topk'\?"),
        (
            {"custom_hooks": [{"type": "EMAHok"}]},
            r"custom_hooks\.0\.type: there is no 'EMAHok', did you mean 'EMAHook'",
        ),
        ({"custom_hooks": [{"momentum": 0.1}]}, r"custom_hooks\.0 has no type"),
        (
            {"visualizer.vis_backends": [{"type": "LocalVisBacken"}]},
            r"visualizer\.vis_backends\.0\.type: .* 'LocalVisB",
        ),
        ({"val_dataloader.batchsize": 3}, r"val_dataloader\.batchsize: DataLoader .* did you mean 'batch_size'\?"),
        (
            {"train_dataloader.persistent_workers": True, "train_dataloader.num_workers": 0},
            "train_dataloader: persistent_workers=True needs num_workers of 1 or more",
        ),
        (
            {"test_dataloader.prefetch_factor": 4, "test_dataloader.num_workers": 0},
            "test_dataloader: prefetch_factor=4 needs num_workers of 1 or more; set it to None",
        ),
        (
            {
                "optim_wrapper.constructor": "mmpretrain.LearningRateDecayOptimWrapperConstructor",
                "optim_wrapper.optimizer.weight_decay": None,
            },
            r"optim_wrapper\.optimizer has no 'weight_decay', which LearningRateDecayOptimWrapperConstructor mult",
        ),
        (
            {
                "optim_wrapper.paramwise_cfg": {"custom_keys": {".bn": {"decay_mult": 0.0}}},
                "optim_wrapper.optimizer": {"_delete_": True, "type": "SGD", "lr": 0.1},
            },
            r"optim_wrapper\.optimizer has no 'weight_decay', which decay_mult multiplies: give it one",
        ),
        (
            {
                "optim_wrapper.paramwise_cfg": {"custom_keys": {"backbone": {"lr_mult": 0.1}}},
                "optim_wrapper.optimizer": {"_delete_": True, "type": "Adam"},
            },
            r"optim_wrapper\.optimizer has no 'lr', which lr_mult multiplies",
        ),
        ({"train_dataloader.batch_size": "all"}, r"train_dataloader\.batch_size: 'all' is no number"),
        ({"optim_wrapper.optimizer.type": "SDG"}, r"optim_wrapper\.optimizer\.type: .* did you mean 'SGD'\?"),
        (
            {"optim_wrapper.optimizer": {"_delete_": True, "type": "LBFGS", "lr": 1.0}},
            r"optim_wrapper\.optimizer\.type: LBFGS computes the loss anew within a step",
        ),
        (
            {
                "train_dataloader.dataset": {
                    "_delete_": True,
                    "type": "kd_mm.Market1501",
                    "expected_counts": [18, 4, 14],
                }
            },
            r"train_dataloader\.dataset\.expected_counts: \[18, 4, 14\] is no dict such as \{'train': 12936, ",
        ),
        ({"optim_wrapper.optimizer.lr": "fast"}, r"optim_wrapper\.optimizer\.lr: 'fast' is no number"),
        ({"randomness.sed": 1}, r"randomness\.sed: set_randomness has no option 'sed', did you mean 'seed'\?"),
        (
            {"default_hooks.checkpoint.intervall": 1},
            r"default_hooks\.checkpoint\.intervall: CheckpointHook .* 'interval'",
        ),
        ({"model.backbone.init_cfg": {"checkpoint": "no.pth"}}, r"model\.backbone\.init_cfg\.checkpoint: there is no"),
        ({"model.type": "Distiller"}, r"model\.type: there is no 'Distiller', did you mean 'kd_mm\.Distiller'\?"),
        ({"model.type": "kd_mm.Distiller"}, r"model\.backbone: Distiller .*; where a plain model is inherited"),
        (
            {"model": {"_delete_": True, "type": "kd_mm.Distiller", "student": {"config": "a.py"}}},
            r"model\.student: it is the network itself",
        ),
        (  # an option of the exits of MultiExitClassifier alone
            {"model": {"_delete_": True, "type": "kd_mm.Distiller", "recipe": {"exits": EXIT}}},
            r"model\.recipe\.exits\.stage: SepConvExit has no option 'stage'",
        ),
        ({"val_cfg": None}, r"val_dataloader and val_evaluator without val_cfg: give all three, or set all three"),
        ({"log_level": "IFNO"}, r"log_level: there is no 'IFNO', did you mean 'INFO'\?"),
        ({"train_cfg.type": "EpochBasedTrainLoop"}, r"train_cfg: give either type or by_epoch"),
    ):
        assert_refused(f"^{message}", check_config, read(**changes))


def test_what_is_left_to_the_builders() -> None:
    changes = {
        "model.backbone.norm_cfg": {"type": "BN", "requires_grad": True},
        "model.backbone.init_cfg": {"type": "NoInitialisation", "mode": 1},
        "train_dataloader.dataset.pipeline.0": {"type": "Albu", "transforms": [{"type": "HueSaturation", "by": 1}]},
        "custom_hooks": [{"type": "EMAHook", "priority": "NORMAL"}],
        "model.train_cfg": {},
        "env_cfg.dist_cfg": {"backend": "gloo", "init_method": "file:///tmp/meeting"},
        "param_scheduler": {"type": "MultiStepLR", "milestones": [0.5], "convert_to_iter_based": True, "last_step": -1},
        "train_dataloader.batch_size": 8.0,
        "my_variable": {"type": "Nothing"},
    }
    config = read(**changes)
    config.train_dataloader.dataset.pipeline.pop(0)  # albumentations need not be installed
    check_config(config)


def test_sections_and_misspelt_keys() -> None:
    config = read(**{"train_cfg.max_epoch": 1})
    check_config(config, ["model"])
    assert_refused("max_epochs", check_config, config)
    assert_refused("there is no model", check_config, Config({}))
    variables = dict.fromkeys(["optim_wraper", "train_pipeline", "batch_sizes", "my_model", "train_cfg"], {"a": 1})
    assert unread_keys(Config({**variables, "seed": 7})) == [
        "config: nothing reads 'seed': write randomness.seed",
        "config: nothing reads the key 'optim_wraper', did you mean 'optim_wrapper'?",
    ]


def test_variables_that_a_base_has_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "base.py").write_text(
        "data_root, steps, size = 'a/', [dict(type='PackInputs')], 3\n"
        "train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=steps), batch_size=size)\n"
    )
    child = tmp_path / "child.py"
    for text, lines in (
        (
            "steps = []",
            ["config: steps is set and not used: train_dataloader.dataset.pipeline has the base's, set that"],
        ),
        (
            "data_root = 'b/'",
            ["config: data_root is set and not used: train_dataloader.dataset.data_root has the base"],
        ),
        ("data_root = 'a/'", []),
        ("steps = []; train_dataloader = dict(dataset=dict(pipeline=steps))", []),
        ("steps = []; train_dataloader = dict(dataset=dict(pipeline=[]))", []),
        ("train_dataloader = dict(batch_size=2); size = 2", []),
    ):
        child.write_text(f"_base_ = ['./base.py']\n{text}\n")
        found = stale_variables(load_config(str(child)))
        assert [line[: len(start)] for line, start in zip(found, lines, strict=True)] == lines
    child.write_text("_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'\ndataset_type = 'CIFAR100'\n")
    (line,) = stale_variables(load_config(str(child)))
    assert "train_dataloader.dataset.type" in line
    compose(load_config(str(child)), "byot", None, None)
    assert capsys.readouterr().out == f"{line}\n"


class Open(nn.Module):
    def __init__(self, width: int, **kwargs: Any) -> None:
        self.depth = kwargs.pop("depth", 1)
        super().__init__()


class HandsOn(ImageClassifier):
    def __init__(self, width: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)


def test_further_options_are_followed_where_they_are_only_handed_on() -> None:
    assert known_options(Open) is None
    assert known_options(nn.Linear) == ["in_features", "out_features", "bias", "device", "dtype"]
    known = known_options(HandsOn)
    assert known is not None
    assert {"width", "backbone", "neck", "head", "init_cfg"} <= set(known)
    assert "kwargs" not in known
