"""Wrong input as a user meets it: one line, exit status 2, before the first step, with the nearest right choice."""

from __future__ import annotations

import pickle
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ..helpers.compare import weights
from ..helpers.tools import Ended, Tools, failed, refused
from ..helpers.world import CLASSES, World, draw_images


@pytest.fixture(scope="module")
def config(world: World) -> Path:
    return world.distil("wrong.py")


@pytest.fixture(scope="module")
def checkpoints(world: World) -> dict[str, Path]:
    """What people have on disk instead of the teacher."""

    def changed(name: str, change: Callable[[dict[str, Any]], object]) -> Path:
        stored = torch.load(world.checkpoint, weights_only=False)
        change(stored)
        path = world.folder / f"{name}.pth"
        torch.save(stored, path)
        return path

    def noise(stored: dict[str, Any]) -> None:
        torch.manual_seed(0)
        for value in stored["state_dict"].values():
            if value.is_floating_point():
                value.normal_().abs_()

    def lack(stored: dict[str, Any]) -> None:
        for key in [key for key in stored["state_dict"] if "layer2.1" in key]:
            del stored["state_dict"][key]

    content = world.checkpoint.read_bytes()
    files = {"truncated": content[: len(content) // 2], "empty": b"", "text": b"<html>\nnot found\n</html>\n"}
    files["pickle"] = pickle.dumps({"model": {"stem.conv1.weight": np.zeros(3)}, "__author__": "x"})
    files["hdf5"] = b"\x89HDF\r\n\x1a\n" + bytes(99)
    files["pointer"] = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 4\n"
    for name, data in files.items():
        (world.folder / f"{name}.pth").write_bytes(data)
    arrays = {name: value.numpy() for name, value in weights(world.checkpoint).items()}
    np.savez(world.folder / "zipped", **arrays)
    torch.save({"state_dict": arrays}, world.folder / "arrays.pth")
    return {
        "arrays": world.folder / "arrays.pth",
        "zipped arrays": world.folder / "zipped.npz",
        **{name: world.folder / f"{name}.pth" for name in files},
        "missing keys": changed("missing", lack),
        "extra keys": changed("extra", lambda stored: stored["state_dict"].update({"head.extra": torch.zeros(3)})),
        "executable": changed("executable", lambda stored: stored.update(note=shutil.rmtree)),
        "noise": changed("noise", noise),
    }


#: Whose ``frozen_stages=0`` freezes nothing; a ResNet's freezes its first layers.
CONVNEXT = """dict(
    _delete_=True, type="ConvNeXt", arch=dict(depths=[1] * 4, channels=[4, 8, 16, 32]), stem_patch_size=1,
    frozen_stages=0,
)"""
#: A module of a user whose loss fails in the second step.
FAULTY = """
from mmengine.registry import MODELS
from torch import nn

@MODELS.register_module()
class FaultyLoss(nn.CrossEntropyLoss):
    steps = 0

    def forward(self, logits, target, **options):
        self.steps += 1
        if self.steps == 2:
            raise ValueError("at the second step")
        return super().forward(logits, target)
"""

OPTIONS = {
    "stage name": (
        ["model.stages=[backbone.layer1,backbone.layr3]"],
        ["'backbone.layr3'", "did you mean backbone.layer3"],
    ),
    "network of a stage": (
        ["model.stages.studnet=[backbone.layer1]"],
        ["model.stages.studnet: there is no network of that name, did you mean 'student'?"],
    ),
    "number of a stage": (["model.stages=[1,9]"], ["stages=[1, 9] of", "give a list of modules by name"]),
    "class count of student and teacher": (
        ["model.student.head.num_classes=4"],
        ["student has 4 classes, teacher 'teacher' has 3"],
    ),
    "channels of the head": (
        ["model.student.head.in_channels=64"],
        ["dry run: a layer of a network does not fit what comes before it (mat1 and mat2 shapes", "set in_channels of"],
    ),
    "class order": (
        ["train_dataloader.dataset.classes=[red,green,blue]"],
        ["numbers its class folders in their own order (blue, green, red), the class list is red, green, blue"],
    ),
    "recipe key": (["model.recipe.loses.scd.loss_weight=1"], ["recipe: unknown key 'loses', did you mean 'losses'?"]),
    "a loss that nothing imports": (
        ["model.recipe.losses.mine.type=MyOwnLoss"],
        ["model.recipe.losses.mine.type: there is no 'MyOwnLoss'; is the module that defines it in custom_imports?"],
    ),
    "name of a loss": (["model.recipe.losses.scdd.loss_weight=0"], ["loss 'scdd' has no type, did you mean 'scd'?"]),
    "loss option": (
        ["model.recipe.losses.scd.loss_wieght=1"],
        ["model.recipe.losses.scd.loss_wieght: StageChannelLoss has no option", "did you mean 'loss_weight'?"],
    ),
    "loss option's value": (
        ["model.recipe.losses.scd.distance=mes"],
        ["distance='mes'", "'mse', 'l1', 'kl'"],
    ),
    "temperature below 0": (["model.recipe.losses.srd.temperature=-2"], ["losses.srd.temperature: -2 is less than 0"]),
    "temperature of 0": (["model.recipe.losses.srd.temperature=0"], ["losses.srd: temperature=0 must be above 0"]),
    "weight below 0": (["model.recipe.losses.scd.loss_weight=-1"], ["losses.scd.loss_weight: -1 is less than 0"]),
    "width of the exits": (["model.recipe.exits.hidden=0"], ["model.recipe.exits.hidden: 0 is less than 1"]),
    "ramp longer than the run": (
        ["model.recipe.losses.review.schedule.epochs=None", "model.recipe.losses.review.schedule.fraction=20"],
        ["fraction=20 is a part of the run, from 0 to 1"],
    ),
    "stage of a loss": (["model.recipe.losses.scd.stages=[4]"], ["stages=[4]", "the matched stages are 1..3"]),
    "exit type": (["model.recipe.exits.type=kd_mm.SepConfExit"], ["did you mean 'kd_mm.SepConvExit'?"]),
    "stage alignment": (["model.recipe.stage_align=from_dep"], ["did you mean 'from_deep'?"]),
    "mode of the teacher's exits": (
        ["model.recipe.teacher_exits.mode=pretraned"],
        ["did you mean 'pretrained'?"],
    ),
    "learning rate of the teacher's exits": (
        ["model.recipe.teacher_exits.lr=1e30"],
        ["training the exits of teacher 'teacher': the loss is not finite", "lower teacher_exits.lr"],
    ),
    "teacher option": (["model.teacher.chekpoint=x"], ["no option 'chekpoint', did you mean 'checkpoint'?"]),
    "no teacher": (["model.teacher=None"], ["reads a teacher, but the config has none"]),
    "missing data": (
        ["train_dataloader.dataset.data_root=/nowhere"],
        ["/nowhere/train does not exist", "train_dataloader.dataset.data_root"],
    ),
    "missing validation data": (
        ["val_dataloader.dataset.data_root=/nowhere"],
        ["/nowhere/val does not exist", "val_dataloader.dataset.data_root"],
    ),
    "value of the loop": (["train_cfg.max_epochs=abc"], ["error: train_cfg.max_epochs: ", "'abc'"]),
    "value of the scheduler": (
        ["param_scheduler.begin=5", "param_scheduler.end=3"],
        ["error: param_scheduler.0: it begins at 5 and ends at 3: nothing is between them"],
    ),
    "name of a hook": (["default_hooks.loger.interval=1"], ["default_hooks.loger has no type, did you mean 'logger'?"]),
    "an override that is no list": (["custom_hooks=[EMAHook,"], ["write KEY=VALUE"]),
    "an override that is a dict": (["param_scheduler=dict(type=StepLR)"], ["write param_scheduler.KEY=VALUE"]),
    "an override that is a list of dicts": (["custom_hooks=[dict(type='EMAHook')]"], ["a new one into a config file"]),
    "a factor of the student's own loss": (
        ["model.recipe.student_loss_weight=-1"],
        ["recipe.student_loss_weight: -1 would make the loss grow; give a number of 0 or more"],
    ),
    "an override beyond a list": (
        ["train_dataloader.dataset.pipeline.8.prob=1"],
        ["override train_dataloader.dataset.pipeline.8.prob=1: Index 8 exceeds"],
    ),
    "an override with a blank": (["val_dataloader.dataset.data_root=/no where"], ["/no where/val does not exist"]),
    "an override that is a list with blanks": (
        ["train_dataloader.dataset.classes=[dark red,blue]"],
        ["classes=[dark red,blue]: a list with blanks in it goes into a config file"],
    ),
    "an override without a value": (["train_cfg"], ["write KEY=VALUE"]),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_wrong_option(tools: Tools, config: Path, tmp_path: Path, name: str) -> None:
    options, words = OPTIONS[name]
    work_dir = tmp_path / "work_dirs" / "run"
    refused(tools.run("train", config, "--work-dir", work_dir, "--cfg-options", *options), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_start_leaves_the_work_dir_as_it_was(tools: Tools, world: World, tmp_path: Path) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    tools.train(world.plain, "--work-dir", tmp_path, "--cfg-options", "train_cfg.max_epochs=1")
    before = files()
    assert tmp_path / "plain.py" in before
    time.sleep(1.0)  # the engine names the folder of a run by the second
    wrong = ["train_cfg.max_epochs=3", "param_scheduler.gama=0.1"]
    refused(tools.run("train", world.plain, "--work-dir", tmp_path, "--cfg-options", *wrong))
    refused(
        tools.run(
            "train", world.plain, "--work-dir", tmp_path, "--distiller", "kd", *world.taught, "--cfg-options", *wrong
        )
    )
    assert files() == before


def test_a_best_checkpoint_that_no_validation_chooses(tools: Tools, world: World, tmp_path: Path) -> None:
    options = ["default_hooks.checkpoint.save_best=auto", "train_cfg.max_epochs=1", "train_cfg.val_interval=5"]
    ended = tools.train(world.plain, "--work-dir", tmp_path / "run", "--cfg-options", *options)
    words = "default_hooks.checkpoint.save_best: there will be no metric, the training ends at 1, before train_cfg.val_"
    assert words in ended.out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            'val_evaluator = dict(_delete_=True, type="SingleLabelMetric", average="makro")',
            "val_evaluator: an option of SingleLabelMetric does not fit: AssertionError: Invalid `average` argument",
        ),
        (
            'optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"bakbone": dict(lr_mult=0.1)}))',
            "custom_keys: no parameter has 'bakbone' in its name, did you mean 'backbone'?",
        ),
        (
            "optim_wrapper = dict(paramwise_cfg=dict(norm_decay=0.0))",
            "optim_wrapper.paramwise_cfg: nothing reads 'norm_decay', did you mean 'norm_decay_mult'?",
        ),
        (
            'optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"backbone": dict(lr_multi=0.1)}))',
            "optim_wrapper.paramwise_cfg: nothing reads 'lr_multi', did you mean 'lr_mult'?",
        ),
        (
            'train_dataloader = dict(sampler=dict(type="InfiniteSampler"))',
            "train_dataloader.sampler: an epoch of InfiniteSampler never ends: take DefaultSampler, or by_epoch=False",
        ),
        (
            'val_dataloader = dict(sampler=dict(type="InfiniteSampler"))',
            "val_dataloader.sampler: an epoch of InfiniteSampler never ends",
        ),
        (
            "model = dict(head=dict(loss=dict(class_weight=[1.0, 2.0])))",
            "model.head: CrossEntropyLoss fails on its logits and labels (RuntimeError: weight tensor should be",
        ),
        (
            'train_dataloader = dict(dataset=dict(pipeline=dict(_delete_=True, type="LoadImageFromFile")))',
            "train_dataloader.dataset.pipeline: it is one step, not a list of steps",
        ),
        (
            f"model = dict(backbone={CONVNEXT})",
            "model.neck: GlobalAveragePooling fails on what ConvNeXt gives, (12, 32) (ValueError: Input dimension shou",
        ),
        (
            'val_evaluator = dict(_delete_=True, type="SingleLabelMetric", items=["f1-score"], average=None)\n'
            'default_hooks = dict(checkpoint=dict(save_best="single-label/f1-score_classwise", rule="greater"))',
            "default_hooks.checkpoint.save_best: 'single-label/f1-score_classwise' is a list of 3 numbers: take a",
        ),
        (
            "model = dict(head=dict(cal_acc=True, topk=(1, 5)))",
            "model.head.topk: 5 of 3 classes is not defined: set it to at most 3",
        ),
        (
            'param_scheduler = [dict(type="CosineAnnealingLR", begin=5, by_epoch=True)]\n'
            "train_cfg = dict(max_epochs=1)",
            "param_scheduler: one begins at 5, and the run or its schedule ends at 1: take it out, or",
        ),
        (
            'val_evaluator = dict(_delete_=True, type="mmdet.VOCMetric", metric="mAP")',
            "; the network predicts pred_label, pred_score: take mmpretrain.Accuracy",
        ),
        (
            "val_evaluator = dict(thrs=(0.5, 50))",
            "val_evaluator.thrs: 50 is a share above 1; write 0.5 for 50 %",
        ),
        (
            "data_preprocessor = dict(std=[0.0, 0.0, 0.0])",
            "train_dataloader: mean and std of the data_preprocessor make pixels that are not finite",
        ),
        (
            'custom_hooks = [dict(type="EarlyStoppingHook", monitor="top1", rule="greater")]',
            "custom_hooks.0.monitor: the validation gives no metric 'top1', did you mean 'accuracy/top1'?",
        ),
        (
            'param_scheduler = dict(_delete_=True, type="ReduceOnPlateauLR", monitor="acc", rule="greater")',
            "param_scheduler.0.monitor: the validation gives no metric 'acc' (there are: accuracy/top1)",
        ),
        (
            'default_hooks = dict(checkpoint=dict(save_best="accuracy"))',
            "default_hooks.checkpoint.save_best: the validation gives no metric 'accuracy', did you mean 'accuracy/top",
        ),
        (
            'default_hooks = dict(checkpoint=dict(save_best="rank1"))',
            "default_hooks.checkpoint.save_best: whether more of 'rank1' is better is not known: give the complete n",
        ),
        (
            'val_evaluator = dict(_delete_=True, type="SingleLabelMetric", items=["f1-score"])\n'
            'default_hooks = dict(checkpoint=dict(save_best="auto"))',
            "default_hooks.checkpoint.save_best='auto' takes 'single-label/f1-score', and whether more of it is better",
        ),
        (
            'val_evaluator = [dict(type="Accuracy", topk=(1,)), dict(type="Accuracy", topk=(1,))]',
            "val_evaluator: two metrics give 'accuracy/top1': set another prefix for one of them",
        ),
        (
            "data_preprocessor = dict(num_classes=10)\n"
            'model = dict(train_cfg=dict(augments=dict(type="Mixup", alpha=0.8)))',
            "data_preprocessor.num_classes is 10, the head has 3 classes",
        ),
        (
            "train_dataloader = dict(collate_fn=lambda batch: batch)",
            "train_dataloader.collate_fn: a run writes its config, which a function of its own cannot be in",
        ),
        (
            'train_dataloader = dict(dataset=dict(pipeline=[dict(type="PackInputs")]))',
            "train_dataloader: its pipeline packs no image: one step loads it, and the last alone is 'mmpretrain.PackI",
        ),
        (
            'custom_hooks = [dict(_delete_=True, type="EMAHook")]',
            "custom_hooks.0._delete_: no base has something to delete there: take it out",
        ),
        ('model = dict(_delete_=True, backbone=dict(type="ResNet"))', "model has no type: is its _base_ missing?"),
        (
            'custom_hooks = [dict(type="EarlyStoppingHook", monitor="kappa")]',
            "custom_hooks.0.monitor: whether more of 'kappa' is better is not known",
        ),
        (
            "val_evaluator = dict(topk=(1, 5))",
            "val_evaluator: topk=5 of 3 classes is not defined: set val_evaluator.topk to at most 3",
        ),
        ("val_evaluator = dict(topk=[])", "val_evaluator.topk: it is empty; write [1]"),
        ('data_preprocessor = dict(std=["a", "b", "c"])', "data_preprocessor.std: ['a', 'b', 'c'] is no list of num"),
        ('auto_scale_lr = dict(base_batch_size="8")', "auto_scale_lr.base_batch_size=8: give the number of images"),
        ("optim_wrapper = dict(optimizer=dict(lr=1e999))", "optim_wrapper.optimizer.lr: inf is no number"),
        ("load_from = True", "load_from=True is no path of a file of weights"),
        (
            'model = dict(backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=True)))',
            "model.backbone.init_cfg.checkpoint: True is no path of a file",
        ),
        ("val_dataloader = 'none'", "val_dataloader: 'none' is no dict; for none write None"),
        (
            "default_hooks = dict(checkpoint=dict(out_dir='/proc/x/y'))",
            "default_hooks.checkpoint.out_dir: /proc/x",
        ),
        (
            "custom_hooks = [dict(type='EarlyStoppingHook', monitor='accuracy/top1', stopping_threshold=0.9)]",
            "custom_hooks.0.stopping_threshold: 0.9 stops at once, accuracy/top1 is in per cent",
        ),
        (
            "default_hooks = dict(checkpoint=dict(save_best='accuracy/top1', rule='max'))",
            "default_hooks.checkpoint.rule: 'max' is neither 'greater' nor 'less'",
        ),
        ("randomness = dict(seed=-1)", "randomness.seed: -1 is not from 0 to 2**32 - 1"),
        ("model = dict(backbone=[1])", "model.backbone: [1] is no dict"),
        ("model = dict(head=dict(_delete_=True, num_classes=3))", "model.head has no type"),
        (
            'model = dict(backbone=dict(type="ResNet", depth=18))',
            "no option 'widths', did you mean 'with_cp'?; one of another type in the base goes away by _delete_=True",
        ),
        (
            "model = dict(train_cfg=dict(augment=[]))",
            "model.train_cfg.augment: RandomBatchAugment has no option 'augment', did you mean 'augments'?",
        ),
        (
            'model = dict(backbone=dict(init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet18x")))',
            "model.backbone.init_cfg.checkpoint: torchvision has no 'resnet18x', did you mean 'resnet18'?",
        ),
        (
            "train_cfg = dict(_delete_=True, by_epoch=False, max_epochs=2)",
            "train_cfg.max_epochs: a loop by iterations takes max_iters",
        ),
        (
            "train_cfg = dict(dynamic_intervals=[[1, 2]])",
            "train_cfg.dynamic_intervals: [[1, 2]] is no list of pairs: write [(BEGIN, INTERVAL)]",
        ),
        ('resume = "none"', "resume: 'none' is neither True nor False; --resume none goes on from a file"),
        (
            'train_dataloader = dict(dataset=dict(ann_file=["a.txt", "b.txt"]))',
            "train_dataloader.dataset.ann_file: it is a list: join data sets as dict(type='ConcatDataset', datasets=[",
        ),
        (
            'train_dataloader = dict(dataset=[dict(type="CustomDataset")])',
            "train_dataloader.dataset: it is a list: join data sets as dict(type='ConcatDataset', datasets=[dict(",
        ),
        (
            'val_dataloader = dict(dataset=dict(data_root="file:///data"))',
            "val_dataloader.dataset.data_root: 'file:///data' is not read: write the path without file://",
        ),
        ('custom_hooks = ["EMAHook"]', "custom_hooks.0: 'EMAHook' is no dict: write dict(type='EMAHook')"),
        ('custom_hooks = dict(type="EMAHook")', "custom_hooks: it is one hook, not a list of hooks"),
        (
            'custom_hooks = [dict(type="EMAHook", priority="HIHG")]',
            "custom_hooks.0.priority: there is no 'HIHG', did you mean 'HIGH'?",
        ),
        ('val_evaluator = ["Accuracy"]', "val_evaluator.0: 'Accuracy' is no dict: write dict(type='Accuracy')"),
        ("val_evaluator = dict(_delete_=True, topk=(1,))", "val_evaluator has no type"),
        (
            "steps = {{_base_.train_dataloader.dataset.pipeline}}\n"
            "train_dataloader = dict(dataset=dict(pipeline=[steps[0]]))",
            "pipeline.0: '_' is no dict: is it of {{_base_.NAME}}[0]? Write _base_.NAME[0]",
        ),
        (
            "train_dataloader = dict(dataset=dict(indices=[0, 99]))",
            "the config cannot be built: IndexError: list index out of range in ",
        ),
        ('custom_imports = ["a"]', "custom_imports: ['a'] is no dict: write custom_imports=dict(imports=[...])"),
        (
            "default_hooks = dict(checkpoint=dict(save_best=True))",
            "default_hooks.checkpoint.save_best: True is no name of a metric; 'auto' takes the first",
        ),
        (
            'optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"backbone": 0.1}))',
            "optim_wrapper.paramwise_cfg.custom_keys.backbone: 0.1 is no dict such as dict(lr_mult=0.1)",
        ),
        (
            'optim_wrapper = dict(type="AmpOptimWrapper")',
            "optim_wrapper.type: AmpOptimWrapper needs a GPU: give --amp, or take OptimWrapper",
        ),
        (
            'custom_hooks = [dict(type="mmdet.PipelineSwitchHook", switch_epoch=1, switch_pipeline=[])]\n'
            "train_dataloader = dict(num_batch_per_epoch=2)",
            "PipelineSwitchHook: _SlicedDataset would not read the pipeline: leave the wrapper out, or num_batch_pe",
        ),
        (
            'custom_hooks = [dict(type="mmdet.YOLOXModeSwitchHook")]',
            "YOLOXModeSwitchHook: it switches steps of a MultiImageMixDataset and an option of the network's bbox_head",
        ),
        (
            "val_dataloader = dict(dataset=dict(with_label=False))",
            "cannot be evaluated: they have no label; for predictions alone take kd-mm test --out FILE.pkl with",
        ),
        (
            'param_scheduler = dict(_delete_=True, type="LinearLR", begin=3, end=3)',
            "param_scheduler.0: it begins at 3 and ends at 3: nothing is between them",
        ),
        (
            'custom_hooks = [dict(type="EMAHook", begin_epoch=9)]\ntrain_cfg = dict(max_epochs=2)',
            "custom_hooks.0.begin_epoch: 9 is beyond the run, train_cfg.max_epochs is 2",
        ),
        (
            "load_from = 'http://127.0.0.1:9/a.pth'",
            "error: a download fails ([Errno 111] Connection refused): where the",
        ),
        ("model = dict(head=dict(in_channels=33))", "(12x32 and 33x3)): set in_channels of its neck and head to"),
    ],
)
def test_a_metric_that_can_never_be_there(tools: Tools, world: World, tmp_path: Path, changes: str, words: str) -> None:
    config = world.write("metric.py", f'_base_ = "plain.py"\n{changes}\n')
    refused(tools.run("train", config, "--work-dir", tmp_path / "run"), words)
    assert not (tmp_path / "run").exists()


def test_a_slice_of_a_data_set_in_workers_that_are_not_forked(tools: Tools, world: World, tmp_path: Path) -> None:
    changes = 'env_cfg = dict(mp_cfg=dict(mp_start_method="spawn"))\n'
    changes += "train_dataloader = dict(num_batch_per_epoch=2, num_workers=1, persistent_workers=False)\n"
    config = world.write("slice.py", f'_base_ = "plain.py"\n{changes}')
    # In a process of its own, which would die in an iteration that does not come: the method is one of the process.
    ended = tools.run("train", config, "--work-dir", tmp_path / "run", kill={"iteration": 99})
    assert ended.status == 2, ended.err
    line = "error: train_dataloader: workers that are not forked cannot take the engine's slice of a data set: set env_"
    assert ended.err.splitlines()[-1].startswith(line)


def test_habits_that_are_mentioned(tools: Tools, world: World, tmp_path: Path) -> None:
    changes = 'optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"offset": dict(lr_mult=0.1)}))'
    loaders = "train_dataloader = dict(sampler=dict(shuffle=False))\n"
    loaders += "data = dict(samples_per_gpu=2)\nresume_from = 'run/latest.pth'\nnum_epochs = 77"
    switches = 'dict(type="mmdet.PipelineSwitchHook", switch_epoch=1, switch_pipeline=[])'
    switches += ', dict(type="SwitchRecipeHook", schedule=[dict(action_epoch=2, batch_augments=None)])'
    hooks = f'custom_hooks = [dict(type="EMAHook"), {switches}]\ntrain_cfg = dict(max_epochs=1)\n'
    config = world.write("habits.py", f'_base_ = "plain.py"\n{changes}\n{loaders}\n{hooks}')
    out = tools.train(config, "--work-dir", tmp_path).out
    assert "WARNING - optim_wrapper.paramwise_cfg.custom_keys: no parameter has 'offset' in its name" in out
    assert "WARNING - train_dataloader.sampler.shuffle=False: images are learned in the order of their list" in out
    assert "nothing reads 'data': write train_dataloader, val_dataloader and test_dataloader" in out
    assert "nothing reads 'num_epochs': write train_cfg.max_epochs" in out
    assert "nothing reads 'resume_from': write load_from, and give --resume" in out
    assert "PipelineSwitchHook: switch_epoch=1 is never reached, the run has 1 epochs" in out
    assert "SwitchRecipeHook: action_epoch=2 is never reached, the run has 1 epochs" in out
    keys = "optim_wrapper.paramwise_cfg.custom_keys.offset.lr_mult=0.1"
    out = tools.train(world.plain, "--work-dir", tmp_path, "--resume", "--cfg-options", keys).out
    assert "so far: without EMAHook the run goes on from the averaged weights, not from the trained; " in out


def test_frozen_stages_without_pretrained_weights(tools: Tools, world: World, tmp_path: Path) -> None:
    sizes = "depth=18, base_channels=4, stem_channels=4, frozen_stages=1, norm_eval=True"
    backbone = f'model = dict(backbone=dict(_delete_=True, type="ResNet", {sizes}))\n'
    config = world.write("frozen.py", f'_base_ = "plain.py"\n{backbone}train_cfg = dict(max_epochs=1)\n')
    out = tools.train(config, "--work-dir", tmp_path).out
    for kept in ("frozen_stages=1 keeps it as it was", "norm_eval=True keeps the statistics of its norms as"):
        assert f"WARNING - model.backbone: {kept} initialised, since no weights are loaded: set load_from, " in out
    taught = tools.train(config, "--work-dir", tmp_path / "kd", "--distiller", "kd", *world.taught).out
    assert "WARNING - model.student.backbone: frozen_stages=1 keeps it as it was initialised" in taught
    learning = world.write("learning.py", f'_base_ = "frozen.py"\nmodel = dict(neck=None, backbone={CONVNEXT})\n')
    assert "as it was initialised" not in tools.train(learning, "--work-dir", tmp_path / "learning").out
    loaded = f"load_from={tmp_path}/epoch_1.pth"
    assert "as it was initialised" not in tools.train(config, "--work-dir", tmp_path / "b", "--cfg-options", loaded).out


def test_epochs_in_a_run_by_iterations(tools: Tools, world: World, tmp_path: Path) -> None:
    """Beside a ``data_preprocessor`` that the model's own replaces."""
    loop = "train_cfg = dict(_delete_=True, by_epoch=False, max_iters=2)"
    own = 'model = dict(data_preprocessor=dict(type="ClsDataPreprocessor", mean=[1.0], std=[99.0]))'
    out = tools.train(world.write("loop.py", f'_base_ = "plain.py"\n{loop}\n{own}\n'), "--work-dir", tmp_path).out
    for part in ("CheckpointHook", "MultiStepLR"):
        assert f"WARNING - {part} counts epochs, and a run by iterations is one: set by_epoch=False" in out
    assert "config: data_preprocessor is set and not used: the model has its own, set that instead" in out
    options = ["default_hooks.checkpoint.by_epoch=False", "param_scheduler.by_epoch=False"]
    out = tools.train(world.folder / "loop.py", "--work-dir", tmp_path / "run", "--cfg-options", *options).out
    assert "counts epochs" not in out


def test_classes_of_a_file_with_more_than_names(tools: Tools, world: World, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"0": ["n01", "blue"], "1": ["n02", "green"], "2": ["n03", "red"]}')
    option = f"train_dataloader.dataset.metainfo.classes={tmp_path}/index.json"
    ended = tools.run("train", world.plain, "--work-dir", tmp_path / "run", "--cfg-options", option)
    refused(ended, "index.json': ['n01', 'blue'] is no name: write a list of names")


def test_options_of_the_evaluator_of_a_test(tools: Tools, world: World, tmp_path: Path) -> None:
    options = ["--work-dir", tmp_path, "--cfg-options", "test_evaluator.topk=[1,5]"]
    ended = tools.run("test", world.teacher, world.checkpoint, *options)
    refused(ended, "test_evaluator: topk=5 of 3 classes is not defined: set test_evaluator.topk to at most 3")
    assert "Epoch(test)" not in ended.out
    assert not list(tmp_path.iterdir())


def test_keys_of_the_command_line_that_nothing_reads(tools: Tools, world: World, tmp_path: Path) -> None:
    """A value that the config's file has copied elsewhere would change nothing."""
    nested = 'steps = dict(val=[dict(type="LoadImageFromFile"), dict(type="PackInputs")])\n'
    copied = 'val_dataloader = dict(dataset=dict(pipeline=steps["val"]))\n'
    config = world.write("variables.py", f'_base_ = "plain.py"\nown = dict(note=7)\n{nested}{copied}')
    for option, words in {
        "trian_cfg.max_epochs=2": "nothing reads the key 'trian_cfg', did you mean 'train_cfg'?",
        "test_pipeline.1.type=Resize": "'test_pipeline' any more, it was copied when the config was read: set "
        "val_dataloader.dataset.pipeline.1.type or test_dataloader.dataset.pipeline.1.type",
        "steps.val.1.type=Resize": "nothing reads 'steps' any more, it was copied when the config was read: set",
    }.items():
        refused(tools.run("train", config, "--work-dir", tmp_path / "run", "--cfg-options", option), words)
    # A variable of the user's own, copied nowhere.
    tools.train(config, "--work-dir", tmp_path / "run", "--cfg-options", "own.note=9", "train_cfg.max_epochs=1")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("model.student.head.loss.loss_weight=high", "model.student.head.loss.loss_weight: 'high' is no number"),
        ("model.student.head.loss.loss_weight=-1", "model.student.head.loss.loss_weight: -1 would make the loss grow"),
        ("default_hooks.checkpoint.interval=0", "default_hooks.checkpoint.interval: 0 is no interval; -1 means never"),
        ("model.recipe.student_loss_weight=1.O", "model.recipe.student_loss_weight: '1.O' is no number"),
        ("model.recipe.losses.kd.loss_weight=2x", "model.recipe.losses.kd.loss_weight: '2x' is no number"),
        (  # KD reads no stage
            "model.stages.student=[backbone.layr3]",
            "model.stages.student: tap 'backbone.layr3': ImageClassifier has no module 'backbone.layr3'; did you mean",
        ),
        ("optim_wrapper.optimizer.lr=0,1", "optim_wrapper.optimizer.lr: [0, 1] is no number"),
        ("optim_wrapper.optimizer.lr=nan", "optim_wrapper.optimizer.lr: nan is no number"),
        ("model.recipe.losses.kd.temperature=warm", "model.recipe.losses.kd.temperature: 'warm' is no number"),
    ],
)
def test_a_value_that_means_nothing(tools: Tools, world: World, tmp_path: Path, option: str, words: str) -> None:
    config = world.distil("number.py", recipe="kd")
    refused(tools.run("train", config, "--work-dir", tmp_path / "run", "--cfg-options", option), words)


def test_an_error_of_a_step_keeps_its_traceback_and_its_log(tools: Tools, world: World, tmp_path: Path) -> None:
    (tmp_path / "faulty_loss.py").write_text(FAULTY)
    changes = 'custom_imports = dict(imports=["faulty_loss"])\nmodel = dict(head=dict(loss=dict(type="FaultyLoss")))\n'
    config = world.write("faulty.py", f'_base_ = "plain.py"\n{changes}')
    ended = tools.run("train", config, "--work-dir", tmp_path / "run", env={"PYTHONPATH": str(tmp_path)})
    assert ended.status == 1
    assert "ValueError: at the second step" in ended.err
    assert "RuntimeError: iteration 2: the training step failed" in ended.err
    assert list((tmp_path / "run").glob("*/vis_data/config.py"))


def test_a_step_that_the_config_makes_impossible(tools: Tools, world: World, tmp_path: Path) -> None:
    hooks = 'default_hooks = dict(_delete_=True, distill=dict(type="kd_mm.DistillHook"))'
    ended = tools.run("train", world.distil("unprepared.py", changes=hooks), "--work-dir", tmp_path)
    refused(ended, "exits of teacher 'teacher' are not trained: register the hook kd_mm.PrepareTeachersHook")
    head = 'type="StackedLinearClsHead", num_classes=3, in_channels=32, mid_channels=[8], norm_cfg=dict(type="BN1d")'
    text = (
        f'_base_ = "plain.py"\nmodel = dict(head=dict(_delete_=True, {head}))\ntrain_dataloader = dict(batch_size=1)\n'
    )
    ended = tools.run("train", world.write("alone.py", text), "--work-dir", tmp_path)
    refused(ended, "alone in a batch: a batch norm over one position takes two images or more; set train_dataloader.b")


def test_options_that_are_needed_in_a_plain_config(tools: Tools, world: World, tmp_path: Path) -> None:
    head, loss = 'model = dict(head=dict(_delete_=True, type="LinearClsHead"', 'loss=dict(type="LabelSmoothLoss")'
    set_of = 'train_dataloader = dict(dataset=dict(_delete_=True, type="RepeatDataset", dataset=dict(type="{0}")))'
    for changes, words in (
        (f"{head}))", "model.head: LinearClsHead needs the options 'num_classes' and 'in_channels'"),
        (
            f"{head}, num_classes=3, in_channels=32, {loss}))",
            "model.head.loss: LabelSmoothLoss needs the option",
        ),
        (
            'model = dict(backbone=dict(_delete_=True, type="ResNet"))',
            "model.backbone: ResNet needs the option 'depth'",
        ),
        (
            'model = dict(backbone=dict(_delete_=True, type="ResNet", depth=18, frozen_stages=9))',
            "the config cannot be built: AttributeError: 'ResNet' object has no attribute 'layer5'",
        ),
        (
            'custom_hooks = [dict(type="EarlyStoppingHook")]',
            "custom_hooks.0: EarlyStoppingHook needs the option",
        ),
        (
            'optim_wrapper = dict(constructor="mmpretrain.LearningRateDecayOptimWrapperConstructor", '
            "paramwise_cfg=dict(layer_decay_rate=0.8))",
            "doesn't support `get_layer_depth`",
        ),
        ('param_scheduler = dict(_delete_=True, type="StepLR")', "missing 1 required positional argument: 'step_size'"),
        (set_of.format("CIFAR10"), "train_dataloader.dataset: RepeatDataset needs the option 'times'"),
    ):
        config = world.write("needed.py", f"_base_ = 'plain.py'\n{changes}\n")
        refused(tools.run("train", config, "--work-dir", tmp_path), words)


def test_data_of_a_shortened_epoch_are_checked(tools: Tools, world: World, tmp_path: Path) -> None:
    draw_images(tmp_path / "data")
    (tmp_path / "data" / "train" / "red" / "059.png").write_bytes(b"")
    config = world.write(
        "shortened.py",
        f"""
_base_ = "plain.py"
train_dataloader = dict(
    num_batch_per_epoch=2,
    dataset=dict(
        _delete_=True,
        type="RepeatDataset",
        times=2,
        dataset=dict(type="CustomDataset", data_root=r"{tmp_path}/data/train", pipeline={{{{_base_.train_pipeline}}}}),
    ),
)
""",
    )
    ended = tools.run("train", config, "--work-dir", tmp_path / "run")
    refused(ended, "train_dataloader: 1 of 60 images looked at are damaged")


def test_the_table_of_stages_is_printed_beside_the_line(tools: Tools, config: Path, tmp_path: Path) -> None:
    ended = tools.run("train", config, "--work-dir", tmp_path, "--cfg-options", "model.stages=[backbone.layr3]")
    table = [line.split()[1] for line in ended.out.splitlines() if " map " in line]
    assert table == ["backbone.layer1", "backbone.layer2", "backbone.layer3"]


def test_more_classes_in_the_data_than_in_the_network(tools: Tools, world: World, config: Path, tmp_path: Path) -> None:
    draw_images(tmp_path / "data")
    shutil.copytree(tmp_path / "data" / "train" / "red", tmp_path / "data" / "train" / "yellow")
    option = f"train_dataloader.dataset.data_root={tmp_path}/data"
    ended = tools.run("train", config, "--work-dir", tmp_path / "run", "--cfg-options", option)
    refused(ended, "data set has 4 classes, the student has 3", "model.student.head.num_classes")
    ended = tools.run("train", world.plain, "--work-dir", tmp_path / "run", "--cfg-options", option)
    refused(ended, "data set has 4 classes (", "), the network predicts 3: set model.head.num_classes")
    assert not (tmp_path / "run").exists()


def test_a_teacher_for_a_recipe_that_reads_none(tools: Tools, world: World, tmp_path: Path) -> None:
    ended = tools.run("train", world.plain, "--work-dir", tmp_path, "--distiller", "byot", *world.taught)
    refused(ended, "--distiller byot learns from no teacher", "drop --teacher")


def test_a_head_of_several_tasks(tools: Tools, world: World, tmp_path: Path) -> None:
    task = 'dict(type="LinearClsHead", num_classes=3, in_channels=32)'
    head = f'dict(_delete_=True, type="MultiTaskHead", in_channels=32, task_heads=dict(colour={task}))'
    config = world.write("tasks.py", f'_base_ = "plain.py"\nmodel = dict(head={head})\n')
    ended = tools.run("train", config, "--work-dir", tmp_path, "--distiller", "kd", *world.taught)
    refused(ended, "MultiTaskHead gives logits for each of its tasks", "take one of features alone, such as fitnets")


def test_one_teacher_for_a_recipe_of_several(tools: Tools, world: World, tmp_path: Path) -> None:
    short = ["--cfg-options", "train_cfg.max_epochs=1", "default_hooks.teacher_check.min_score=0"]
    ended = tools.train(world.plain, "--work-dir", tmp_path / "run", "--distiller", "multi_kd", *world.taught, *short)
    assert ended.out.count("averages over teachers, and there is one: that is the recipe kd") == 1


def test_two_teachers_for_a_recipe_of_one_and_a_term_that_outweighs_the_others(tools, world, tmp_path) -> None:
    ended = tools.run("train", world.plain, "--work-dir", tmp_path, "--distiller", "kd", *world.taught, *world.taught)
    refused(ended, "loss 'kd' reads one teacher, the config has teacher1, teacher2: name one by model.recipe.losses.kd")
    assert "teachers 'teacher1' and 'teacher2' are of one config and one checkpoint" in ended.out
    options = ["--cfg-options", "train_cfg.max_epochs=1", "model.recipe.losses.kd.loss_weight=1e4"]
    options += ["optim_wrapper.optimizer.lr=1e-9"]
    ended = tools.train(world.plain, "--work-dir", tmp_path, "--distiller", "kd", *world.taught, *options)
    assert re.search(r"loss 'kd' is [\d.e+]+ times the student's own loss in its first step", ended.out)
    assert "lower model.recipe.losses.kd.loss_weight (now 10000)" in ended.out


def test_a_metric_that_the_evaluation_does_not_give(tools: Tools, world: World, tmp_path: Path) -> None:
    metrics = ["--metric", "accuracy/top1", "voc07/mAP"]
    ended = tools.run("compare", world.plain, "--work-dir", tmp_path, "--seeds", 0, *metrics)
    refused(ended, "gives no metric 'voc07/mAP' (there are: accuracy/top1)")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing keys", ["does not fit", "10 missing (backbone.layer2.1."]),
        ("extra keys", ["does not fit", "1 left over (head.extra)"]),
        ("truncated", ["truncated.pth is no checkpoint, or cut short"]),
        ("empty", ["empty.pth is no checkpoint, or cut short"]),
        ("text", ["text.pth is no checkpoint but a web page"]),
        ("hdf5", ["hdf5.pth is no checkpoint but an HDF5 file, as Keras writes"]),
        ("pointer", ["pointer.pth is no checkpoint but a pointer of Git LFS"]),
        ("pickle", ["pickle.pth is no checkpoint but a pickle of another program, such as detectron2's .pkl"]),
        ("arrays", ["arrays.pth holds numpy arrays: save them as tensors, torch.save("]),
        ("zipped arrays", ["zipped.npz is no checkpoint but numpy arrays: save them as tensors, torch.save("]),
        ("executable", ["cannot be read safely", "shutil.rmtree"]),
        ("noise", ["teacher 'teacher' scores", "chance is 33.3%", "min_score=0"]),
    ],
)
def test_wrong_teacher_checkpoint(tools, checkpoints, config, tmp_path, name, words) -> None:
    option = f"model.teacher.checkpoint={checkpoints[name]}"
    refused(tools.run("train", config, "--work-dir", tmp_path, "--cfg-options", option), *words)


def test_an_untrained_teacher_whose_logits_no_loss_reads(tools, world, checkpoints, tmp_path) -> None:
    teacher = ["--teacher", world.teacher, "--teacher-checkpoint", checkpoints["noise"], "--distiller", "at"]
    short = ["--cfg-options", "train_cfg.max_epochs=1"]
    ended = tools.train(world.plain, "--work-dir", tmp_path / "run", *teacher, *short)
    assert ended.out.count("chance is 33.3%") == ended.out.count("since no loss reads its logits") == 1
    for least, words in (
        ("0.6", ["teacher 'teacher' scores", "chance is 33.3%", "min_score=0"]),
        ("60", ["teacher_check.min_score=60: give a share from 0 to 1"]),
    ):
        option = f"default_hooks.teacher_check.min_score={least}"
        refused(tools.run("train", world.plain, "--work-dir", tmp_path, *teacher, *short, option), *words)


def test_missing_files(tools: Tools, world: World, config: Path, tmp_path: Path) -> None:
    def train(*arguments: object) -> Ended:
        return tools.run("train", *arguments, "--work-dir", tmp_path)

    misspelt = world.folder / "taecher"
    checkpoint = train(config, "--cfg-options", f"model.teacher.checkpoint={misspelt}.pth")
    refused(checkpoint, "taecher.pth does not exist, did you mean 'teacher.pth'?")
    teacher = train(config, "--cfg-options", f"model.teacher.config={misspelt}.py")
    refused(teacher, "taecher.py' does not exist, did you mean 'teacher.py'?")
    refused(train(world.folder / "wrnog.py"), "wrnog.py' does not exist, did you mean 'wrong.py'?")
    refused(train("mmpretrain::resnet/resnet18_8xb32_in1.py"), "did you mean 'resnet18_8xb32_in1k.py'?")
    refused(train("mmpretrian::resnet/x.py"), "no package 'mmpretrian'", "did you mean 'mmpretrain'?")
    refused(train(config, "--resume", tmp_path / "epoch_7.pth"), "epoch_7.pth does not exist")
    empty = world.folder / "empty_epoch.pth"
    empty.touch()
    refused(train(config, "--resume", empty), "empty_epoch.pth is no checkpoint, or cut short")
    (world.folder / "last_checkpoint").write_text("/a/folder/whose/path/is/longer/than/forty/characters/epoch_2.pth")
    refused(
        train(config, "--resume", world.folder / "last_checkpoint"),
        "last_checkpoint names one: give /a/folder/whose/path/is/longer/than/forty/characters/epoch_2.pth, or --resume",
    )
    evaluated = tools.run("test", config, f"{misspelt}.pth", "--work-dir", tmp_path)
    refused(evaluated, "taecher.pth does not exist, did you mean 'teacher.pth'?")


def test_configs_that_cannot_be_read(tools: Tools, world: World, config: Path, tmp_path: Path) -> None:
    def train(name: str, text: str) -> Ended:
        return tools.run("train", world.write(f"{name}.py", text), "--work-dir", tmp_path)

    refused(train("unclosed", "model = dict(\n"), "unclosed.py' is no Python", "line 1")
    refused(train("unnamed", "seed = 1\nmodel = dict(x=sed)\n"), "name 'sed' is not defined (line 2)")
    refused(train("baseless", '_base_ = "plian.py"\n'), "plian.py does not exist, did you mean 'plain.py'?")
    shipped = train("unshipped", '_base_ = "kd_mm::quickstart/student_digit.py"\n')
    refused(shipped, "quickstart/student_digit.py does not exist, did you mean 'student_digits.py'?")
    refused(
        train("importing", 'import torch\n_base_ = "plain.py"\n'), "importing.py' imports modules and has a base of t"
    )
    imported = "from mmengine.config import read_base\nwith read_base():\n    from .plian import *\n"
    refused(train("misimporting", imported), "its base ", "plian.py does not exist, did you mean 'plain.py'?")
    refused(train("unbased", '_base_ = "plain.py"\nx = {{_base_.modle}}\n'), "{{_base_.modle}}")
    unnamed = world.folder / "unnamed.py"
    refused(train("inheriting", '_base_ = "unnamed.py"\n'), "'sed' is not defined", f"({unnamed}, line 2)")
    refused(
        train("reading", 'names = open("/nowhere/names.txt")\n'), "read: /nowhere/names.txt does not exist (line 1)"
    )
    refused(
        train("opened", f'_base_ = r"{world.plain}"\nfile = open("{world.plain}")\n'),
        "opened.py': a variable of it is no va",
    )
    refused(train("lacking", 'x = dict(a=1)["b"]\n'), "lacking.py' cannot be read: KeyError: 'b' (line 1)")
    changed = '_base_ = "plain.py"\nx = {{_base_.train_cfg}}\nx["max_epochs"] = 1\n'
    refused(train("changed", changed), "item assignment (line 3); {{_base_.NAME}} is text there: write _base_.NAME")
    listed = '_base_ = "plain.py"\nx = {{_base_.model}}\nx["head"]\n'
    refused(train("indexed", listed), "string indices", "; {{_base_.NAME}} is text there: write _base_.NAME")
    (world.folder / "longer.py").write_text("train_cfg = dict(max_epochs=9)\n")
    twice = "several of its bases set 'train_cfg': let one of them inherit from the other"
    refused(train("twice", '_base_ = ["plain.py", "longer.py"]\n'), twice)
    refused(train("circular", '_base_ = "circular.py"\n'), "circular.py': one of its bases inherits from itself")
    refused(train("dashed", '_base_ = "kd-mm::a/b.py"\n'), "write a base of a package as 'package::folder/file.py'")
    foreign = "from mmengine.config import read_base\nwith read_base():\n    from mmabsent.configs.x import *\n"
    refused(train("foreign", foreign), "foreign.py': its base is of the package 'mmabsent', which is not installed")
    (world.folder / "cut.yaml").write_text("model: [1\n")
    refused(tools.run("train", world.folder / "cut.yaml", "--work-dir", tmp_path), "cut.yaml' cannot be read: while p")


def test_modules_that_are_not_found(tools: Tools, world: World, tmp_path: Path) -> None:
    folder = tmp_path / "losses"
    folder.mkdir()
    (folder / "lying_here.py").touch()

    def train(module: str) -> Ended:
        config = folder / "config.py"
        config.write_text(f'_base_ = r"{world.plain}"\ncustom_imports = dict(imports=["{module}"])\n')
        return tools.run("train", config, "--work-dir", tmp_path / "run")

    refused(train("nowhere_at_all"), "custom_imports: no module 'nowhere_at_all'; put PYTHONPATH=FOLDER")
    refused(train("lying_here"), f"no module 'lying_here'; it is in {folder}", f"put PYTHONPATH={folder} before")
    refused(train("lyng_here"), "no module 'lyng_here', did you mean 'lying_here'?")
    option = ["--cfg-options", "custom_imports.imports=[nowhere_at_all]"]
    refused(tools.run("train", world.plain, "--work-dir", tmp_path / "run", *option), "no module 'nowhere_at_all'")


def test_a_module_that_cannot_be_imported(tools: Tools, world: World, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import os\nimport nothing_of_that_name\n")
    config = tmp_path / "config.py"
    config.write_text(f'_base_ = r"{world.plain}"\ncustom_imports = dict(imports=["broken"])\n')
    path = {"PYTHONPATH": str(tmp_path)}
    ended = tools.run("train", config, "--work-dir", tmp_path / "run", env=path)
    refused(ended, "custom_imports: 'broken' cannot be imported: ", "No module named 'nothing_of_that_name'")


def test_wrong_command_lines(tools: Tools, world: World, config: Path, tmp_path: Path) -> None:
    def train(*arguments: object) -> Ended:
        return tools.run("train", *arguments, "--work-dir", tmp_path)

    teacher = world.taught
    refused(train(world.plain, "--distiller", "mtkd_srr", *teacher), "'mtkd_srr', did you mean 'mtkd_ssr'?")
    refused(train(world.plain, "--distiller", "kd"), "needs --teacher CONFIG")
    refused(train(world.plain, "--distiller", "kd", *teacher[:2]), "needs --teacher-checkpoint PATH")
    refused(train(world.plain, *teacher), "go with --distiller RECIPE (")
    refused(train(config, "--distiller", "kd", *teacher), "is a distillation already")
    empty = tmp_path / "empty.py"
    empty.touch()
    refused(train(empty, "--distiller", "kd", *teacher), "empty.py: there is no model")
    refused(train(world.plain, "--distiller", "mine.py", *teacher), "unknown recipe 'mine.py'; a recipe of your own is")
    weightless = ("--cfg-options", "model.recipe.losses.kd.loss_weight=0", "model.recipe.student_loss_weight=1")
    assert train(world.plain, "--distiller", "kd", *teacher, *weightless).status == 0
    refused(train(world.plain, "--distiller", "fgd", *teacher), "'fgd' is for detectors alone", "mtkd_ssr, multi_kd")
    options = ("--cfg-options", "model.backbone.depth=14")
    words = "override model.backbone.depth: ", "write model.student.backbone.depth"
    refused(train(world.plain, "--distiller", "kd", *teacher, *options), *words)
    options = ("--cfg-options", "model.recipe.losses.kd.temprature=3")
    refused(train(world.plain, "--distiller", "kd", *teacher, *options), "kd.temprature: KDLoss has no option")
    options = ("--cfg-options", "model.recpie.student_loss_weight=1")
    refused(
        train(world.plain, "--distiller", "kd", *teacher, *options),
        "model.recpie: Distiller has no option",
        "did you mean 'recipe'?",
    )
    refused(train(config, "--launcher", "pytorch"), "torchrun --nproc_per_node")
    refused(train(config, "--auto-scale-lr", "--cfg-options", "auto_scale_lr=None"), "no auto_scale_lr")
    for base in ("None", "0", "many"):
        ended = train(config, "--auto-scale-lr", "--cfg-options", f"auto_scale_lr.base_batch_size={base}")
        refused(ended, f"auto_scale_lr.base_batch_size={base}: give the number of images that a step had")
    refused(tools.run("test", world.teacher, world.checkpoint, "--out", "metrics.txt"), "give a .json file")
    refused(tools.run("test", world.teacher, world.checkpoint, "--show-dir", tmp_path), "draws detections by mmdet's")
    refused(
        tools.run("compare", world.plain, "--page", tmp_path / "page.md"), "name the file of results, ", "page.json"
    )


def test_weights_to_start_from_must_fill_the_student(tools, world, checkpoints, config, tmp_path) -> None:
    options = ["--cfg-options", "model.student.backbone.depth=14", f"load_from={checkpoints['missing keys']}"]
    ended = tools.run("train", config, "--work-dir", tmp_path, *options)
    refused(ended, "does not fill the student ImageClassifier: 10 missing (backbone.layer2.1.")
    evaluated = tools.run("test", config, world.checkpoint, "--work-dir", tmp_path)
    refused(evaluated, "student:", "teacher.pth does not fit", "left over")


def test_images_that_are_too_small_for_the_network(tools: Tools, world: World, tmp_path: Path) -> None:
    changes = 'dict(backbone=dict(_delete_=True, type="VGG", depth=11), head=dict(in_channels=512))'
    config = world.write("small.py", f'_base_ = "plain.py"\nmodel = {changes}\n')
    teacher = ["--distiller", "kd", "--teacher", world.teacher, "--teacher-checkpoint", world.checkpoint]
    for tool, options in (("stages", []), ("train", ["--work-dir", tmp_path]), ("train", teacher)):
        refused(tools.run(tool, config, *options), ": the images are too small for the network (Given input size")


def test_weights_to_start_from_in_another_layout(tools: Tools, world: World, tmp_path: Path) -> None:
    stored = torch.load(world.checkpoint, weights_only=False)["state_dict"]
    torch.save({"model": {f"module.model.{key}": value for key, value in stored.items()}}, tmp_path / "wrapped.pth")
    torch.save({key.removeprefix("backbone."): value for key, value in stored.items()}, tmp_path / "toolkit.pth")
    torch.save({"conv1.weight": torch.zeros(3), "fc.weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    command = [world.teacher, "--work-dir", tmp_path / "run", "--cfg-options", "train_cfg.max_epochs=1"]
    command += ["optim_wrapper.optimizer.lr=0.0"]
    for name in ("wrapped", "toolkit"):  # the latter has the head's names
        tools.train(*command, f"load_from={tmp_path}/{name}.pth")
        trained = weights(tmp_path / "run" / "epoch_1.pth")
        for key in ("backbone.layer2.1.conv1.weight", "head.fc.weight"):
            assert torch.equal(trained[key], stored[key])
    ended = tools.run("train", *command, f"load_from={tmp_path}/foreign.pth")
    refused(
        ended, "foreign.pth: none of its weights (conv1.weight, fc.weight, ...) has the name of one of the network's ba"
    )
    for kind, content in {"list": [stored], "dict": {"epoch": 3}, "Linear": torch.nn.Linear(2, 2)}.items():
        torch.save(content, tmp_path / "odd.pth")
        ended = tools.run("train", *command, f"load_from={tmp_path}/odd.pth")
        refused(ended, f"odd.pth holds a {kind} and no dict of weights: save ")


def test_a_teacher_whose_pipeline_normalises(tools: Tools, world: World, config: Path, tmp_path: Path) -> None:
    teacher, steps = tmp_path / "teacher.py", [{"type": "Normalize", "mean": [1, 2, 3], "std": [4, 5, 6]}]
    teacher.write_text(f"_base_ = {str(world.teacher)!r}\ntrain_dataloader = dict(dataset=dict(pipeline={steps}))\n")
    options = ["--work-dir", tmp_path / "run", "--cfg-options", f"model.teacher.config={teacher}"]
    there = "normalises otherwise (mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=True)"
    refused(tools.run("train", config, *options), f"{there} than that of the training data (not at all)")


def test_weights_to_start_from_are_of_other_classes(tools: Tools, world: World, tmp_path: Path) -> None:
    stored = torch.load(world.checkpoint, weights_only=False)
    stored["state_dict"]["head.fc.weight"], stored["state_dict"]["head.fc.bias"] = torch.zeros(7, 32), torch.zeros(7)
    torch.save(stored, tmp_path / "seven.pth")
    backbone = stored["state_dict"]["backbone.layer2.0.conv1.weight"]
    once = ["--cfg-options", "train_cfg.max_epochs=1", "optim_wrapper.optimizer.lr=0.0"]
    ended = tools.train(world.teacher, "--work-dir", tmp_path / "run", *once, f"load_from={tmp_path}/seven.pth")
    (line,) = (line for line in ended.out.splitlines() if "another shape" in line)
    assert "seven.pth: 2 of its 92 weights have another shape" in line
    assert "head.fc.weight (7, 32) for (3, 32), head.fc.bias (7,) for (3,)" in line
    assert "do not match exactly" not in ended.out
    trained = weights(tmp_path / "run" / "epoch_1.pth")
    assert torch.equal(trained["backbone.layer2.0.conv1.weight"], backbone)
    assert trained["head.fc.weight"].abs().sum() > 0
    student = ["model.student.backbone.depth=14"]
    distil = [world.distil("seven.py", "kd"), "--work-dir", tmp_path / "distil", *once, *student]
    ended = tools.run("train", *distil, f"load_from={tmp_path}/seven.pth")
    refused(ended, "does not fill the student", "model.student.init_cfg=dict(type='Pretrained', checkpoint=PATH)")
    tools.train(
        *distil, "model.student.init_cfg.type=Pretrained", f"model.student.init_cfg.checkpoint={tmp_path}/seven.pth"
    )
    trained = weights(tmp_path / "distil" / "epoch_1.pth")
    assert torch.equal(trained["backbone.layer2.0.conv1.weight"], backbone)
    part = "model.student.backbone.init_cfg"
    ended = tools.run("train", *distil, f"{part}.type=Pretrained", f"{part}.checkpoint={tmp_path}/seven.pth")
    refused(ended, "student.backbone.init_cfg: none of the weights of ", "seven.pth", "set prefix='backbone' in it")


def test_warnings_of_keys_and_weights_that_nothing_reads(tools, world, checkpoints, config, tmp_path) -> None:
    """Misspelt keys of a config, and weights that nobody takes: one line each, and the run goes on."""

    def warnings(run: Path, *options: str) -> list[str]:
        options = ("train_cfg.max_epochs=1", *options)
        ended = tools.train(run, "--work-dir", tmp_path / str(tools.count), "--cfg-options", *options)
        lines = [line.partition(" - WARNING - ")[2] for line in ended.out.splitlines()]
        return [line for line in lines if line.startswith("config: ") or "left over" in line or "initialised" in line]

    misspelt = world.write(
        "misspelt.py", '_base_ = "plain.py"\noptim_wraper = dict(x=1)\nmy_classes = batch_size = 6\n'
    )
    assert warnings(misspelt) == ["config: nothing reads the key 'optim_wraper', did you mean 'optim_wrapper'?"]
    extra = f"load_from={checkpoints['extra keys']}"
    (line,) = warnings(world.plain, "model.backbone.depth=14", extra)
    assert line.endswith("1 of its weights are left over, ImageClassifier has no such weights (head.extra)")
    (line,) = warnings(config, "model.student.backbone.depth=14", extra)
    assert line.endswith("1 of its weights are left over, ImageClassifier has no such weights (head.extra)")
    first, second = warnings(world.plain, "model.backbone.depth=20", extra)
    assert " of the network's 128 weights are not in it and stay as initialised: backbone.layer1.2.conv1.w" in first
    assert "left over" in second
    # A misspelt key may be why a run does not start.
    wrong = world.write("wrong_loop.py", '_base_ = "plain.py"\ntrain_cfg = None\ntraincfg = dict(max_epochs=1)\n')
    ended = tools.run("train", wrong)
    refused(ended, "train_dataloader and optim_wrapper without train_cfg")
    assert "nothing reads the key 'traincfg', did you mean 'train_cfg'?" in ended.out


def test_weights_that_training_began_with(tools: Tools, world: World, tmp_path: Path) -> None:
    """A list of files is looked into, the log tells of few weights, and a test needs none of these files."""
    own = {name.removeprefix("backbone."): value for name, value in weights(world.checkpoint).items()}
    some = {name: value for name, value in own.items() if name.startswith("layer1.0.conv1")}
    for name, stored in (("some", some), ("other", {f"trunk.{name}": value for name, value in own.items()})):
        torch.save(stored, tmp_path / f"{name}.pth")

    def config(name: str) -> Path:
        given = f'init_cfg=[dict(type="Pretrained", checkpoint="{tmp_path}/{name}.pth")]'
        return world.write(f"from_{name}.py", f'_base_ = "teacher.py"\nmodel = dict(backbone=dict({given}))')

    ended = tools.run("train", config("other"), "--work-dir", tmp_path / "run")
    refused(ended, "model.backbone.init_cfg: none of the weights of ", "set prefix='trunk' in it")
    once = ["--work-dir", tmp_path / "run", "--cfg-options", "train_cfg.max_epochs=1"]
    assert f"model.backbone.init_cfg: {tmp_path}/some.pth has 1 of the " in tools.train(config("some"), *once).out
    away = ["model.backbone.init_cfg.type=Pretrained", "model.backbone.init_cfg.checkpoint=/nowhere/own.pth"]
    refused(tools.run("train", world.teacher, *once, *away), "there is no file '/nowhere/own.pth'")
    ended = tools.run("test", world.teacher, world.checkpoint, "--work-dir", tmp_path / "run", "--cfg-options", *away)
    assert ended.status == 0, ended.err


OWN = """
from mmengine.registry import HOOKS
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from torch import nn


@MODELS.register_module(force=True)
class Mine(ImageClassifier):
    pass


@MODELS.register_module(force=True)
class OneMap(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3)

    def forward(self, images):
        return self.conv(images)
"""


def test_networks_and_hooks_of_upstream_in_a_distillation(tools: Tools, world: World, tmp_path: Path) -> None:
    """One that is registered in mmpretrain, on a config of this package; hooks that look at losses and classes."""
    (tmp_path / "own_network.py").write_text(OWN)
    (tmp_path / "mine.py").write_text(
        "_base_ = 'kd_mm::quickstart/student_digits.py'\ncustom_imports = dict(imports=['own_network'])\n"
        "model = dict(type='Mine')\ntrain_dataloader = dict(dataset=dict(indices=64))\ntrain_cfg = dict(max_epochs=1)\n"
    )
    path = {"PYTHONPATH": str(tmp_path)}
    ended = tools.run("train", tmp_path / "mine.py", "--work-dir", tmp_path / "run", env=path)
    assert ended.status == 0, ended.err
    changes = (
        "custom_imports = dict(imports=['own_network'])\nmodel = dict(backbone=dict(_delete_=True, type='OneMap'))"
    )
    ended = tools.run(
        "train", world.write("one.py", f"_base_ = 'plain.py'\n{changes}\n"), "--work-dir", tmp_path / "one", env=path
    )
    failed(ended, "model: OneMap gives one tensor, and heads take the last of a tuple of stages: return (x,)")
    hooks = "custom_hooks = [dict(type='mmdet.CheckInvalidLossHook', interval=1), dict(type='ClassNumCheckHook')]"
    hooks = world.write("hooks.py", f"_base_ = 'plain.py'\n{hooks}\ndefault_hooks = dict(checkpoint=None)\n")
    taught = ["--distiller", "kd", *world.taught, "--cfg-options", "train_cfg.max_epochs=1"]
    taught += ["default_hooks.teacher_check.min_score=0", "default_hooks.logger.interval=2"]
    ended = tools.run("train", hooks, "--work-dir", tmp_path / "taught", *taught)
    assert ended.status == 0, ended.err
    assert "WARNING - custom_hooks: CheckInvalidLossHook is left out, a distillation looks at its" in ended.out


def test_weights_that_are_not_finite(tools: Tools, world: World, tmp_path: Path) -> None:
    broken = {
        key: value * torch.nan if key == "head.fc.bias" else value for key, value in weights(world.checkpoint).items()
    }
    torch.save({"state_dict": broken}, tmp_path / "nan.pth")
    words = "1 of its 92 tensors hold values that are infinite or NaN (head.fc.bias)"
    option = f"load_from={tmp_path}/nan.pth"
    refused(tools.run("train", world.teacher, "--work-dir", tmp_path / "run", "--cfg-options", option), words)
    refused(tools.run("test", world.teacher, tmp_path / "nan.pth", "--work-dir", tmp_path / "run"), words)
    quantised = {key: value.to(torch.int8) for key, value in broken.items()}
    torch.save({"state_dict": quantised}, tmp_path / "int8.pth")
    tested = tools.run("test", world.teacher, tmp_path / "int8.pth", "--work-dir", tmp_path / "run")
    refused(tested, "77 of its 92 tensors are quantised, complex or sparse (")
    broken["head.fc.weight"] = broken["head.fc.weight"].to_sparse()
    torch.save({"state_dict": broken}, tmp_path / "sparse.pth")
    tested = tools.run("test", world.teacher, tmp_path / "sparse.pth", "--work-dir", tmp_path / "run")
    refused(tested, "1 of its 92 tensors are quantised, complex or sparse (head.fc.weight)")
    # What lies beside the network's own weights is not judged, and the log says which were taken.
    whole = {f"module.{key}": value for key, value in weights(world.checkpoint).items()}
    beside = {"queue": torch.zeros(2, dtype=torch.uint8), "scores": torch.full((2,), torch.nan)}
    averages = {f"module.{key}": value for key, value in broken.items()}
    torch.save({"model": whole | beside, "model_ema": averages}, tmp_path / "two.pth")
    tested = tools.test(world.teacher, tmp_path / "two.pth", "--work-dir", tmp_path / "run")
    assert "the weights under 'model' are used, not those under model_ema" in tested.out
    assert "the weights below 'module.' are used, 2 others are not" in tested.out


def test_checkpoints_of_other_toolkits_and_engines(tools: Tools, world: World, tmp_path: Path) -> None:
    own = weights(world.checkpoint)
    files = {
        "two": {"student": own, "teacher": own, "epoch": 3},
        "average": {"model": own, "best_ema": own, "meta": None},
        "named": {"state_dict": own, "meta": "resnet"},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / f"{name}.pth")
        out = tools.test(world.teacher, tmp_path / f"{name}.pth", "--work-dir", tmp_path / "run").out
        assert (", not those under teacher" in out, ", not those under best_ema" in out) == (
            name == "two",
            name == "average",
        )
    start = f"load_from={tmp_path}/named.pth"
    tools.train(world.teacher, "--work-dir", tmp_path / "run", "--cfg-options", start, "train_cfg.max_epochs=1")
    teacher = ["--distiller", "kd", "--teacher", world.teacher, "--teacher-checkpoint", tmp_path / "named.pth"]
    tools.train(world.plain, "--work-dir", tmp_path / "kd", *teacher, "--cfg-options", "train_cfg.max_epochs=1")
    for name, meta in {
        "old": {"CLASSES": CLASSES[::-1]},
        "older": {"dataset_meta": {"CLASSES": CLASSES[::-1]}},
    }.items():
        torch.save({"state_dict": own, "meta": meta}, tmp_path / f"{name}.pth")
        ended = tools.run("test", world.teacher, tmp_path / f"{name}.pth", "--work-dir", tmp_path / "tested")
        refused(
            ended, "test_dataloader: its 3 classes are not the 3 of the checkpoint's training data: the order is ano"
        )
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    ended = tools.run(
        "test", world.teacher, tmp_path / "model.safetensors.index.json", "--work-dir", tmp_path / "tested"
    )
    refused(ended, "index.json is no checkpoint but JSON, which holds no weights: name the file of the weights")


def test_resume_from_a_file_that_cannot_go_on(tools: Tools, world: World, tmp_path: Path) -> None:
    tools.train(world.plain, "--work-dir", tmp_path / "run", "--cfg-options", "train_cfg.max_epochs=1")
    last, alone = tmp_path / "run" / "epoch_1.pth", tmp_path / "alone.pth"
    torch.save({"state_dict": weights(last)}, alone)
    for path, option, words in (
        (alone, "train_cfg.max_epochs=2", "holds weights and no state of a run: start from it by load_from=PATH"),
        (last, "model.head.num_classes=4", "of another network: 2 of another shape (head.fc.weight: (3, 32) in the fi"),
        (last, "model.backbone.depth=14", "resume: the checkpoint is of another network: 30 missing (backbone.layer1"),
    ):
        refused(
            tools.run("train", world.plain, "--work-dir", tmp_path, "--resume", path, "--cfg-options", option), words
        )
    (tmp_path / "last_checkpoint").write_text("/nowhere/epoch_1.pth")
    (tmp_path / "epoch_1.pth").write_bytes(last.read_bytes()[:5000])
    refused(tools.run("train", world.plain, "--work-dir", tmp_path, "--resume"), f"{tmp_path}/epoch_1.pth is no check")
    (tmp_path / "epoch_1.pth").unlink()
    ended = tools.run("train", world.plain, "--work-dir", tmp_path, "--resume")
    refused(ended, "last_checkpoint names /nowhere/epoch_1.pth, which does not exist: give another by --resume PATH")
    # A copy of a folder goes on from its own file, also while the other one is there.
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    own = torch.load(tmp_path / "copy" / "epoch_1.pth", weights_only=False)
    own["meta"]["epoch"] = 7
    torch.save(own, tmp_path / "copy" / "epoch_1.pth")
    once = ["--cfg-options", "train_cfg.max_epochs=1"]
    ended = tools.train(world.plain, "--work-dir", tmp_path / "copy", "--resume", *once)
    assert "the checkpoint has 7 epochs, train_cfg.max_epochs is 1: nothing is left to train" in ended.out
    # As a job that is started again and again has it.
    (tmp_path / "last_checkpoint").unlink()
    ended = tools.train(world.plain, "--work-dir", tmp_path, "--resume", "--cfg-options", f"load_from={alone}")
    assert f"Load checkpoint from {alone}" in ended.out
    assert f"{tmp_path} holds no checkpoint to resume: the run starts at its beginning" in ended.out


def test_resume_with_another_recipe_in_a_moved_folder(tools: Tools, world: World, tmp_path: Path) -> None:
    config = world.distil("moved.py", recipe="kd")
    tools.train(config, "--work-dir", tmp_path / "run", "--cfg-options", "train_cfg.max_epochs=1")
    (tmp_path / "run").rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", tmp_path / "plain")
    option = "model.recipe.losses.kd.loss_weight=2"
    ended = tools.train(config, "--work-dir", tmp_path / "moved", "--resume", "--cfg-options", option)
    assert (
        "resume: the config differs from the run so far: model.recipe.losses.kd.loss_weight was 0.9, is 2" in ended.out
    )
    ended = tools.train(world.plain, "--work-dir", tmp_path / "plain", "--resume")
    assert "model.type was kd_mm.Distiller, is ImageClassifier; " in ended.out
    logged = [line for line in ended.out.splitlines() if "Epoch(train) [2]" in line]
    assert logged
    assert not any("kd" in line for line in logged)


def test_resume_with_another_teacher(tools: Tools, world: World, tmp_path: Path) -> None:
    config = world.distil("other_teacher.py", recipe="kd")
    tools.train(config, "--work-dir", tmp_path, "--cfg-options", "train_cfg.max_epochs=1")
    stored = torch.load(world.checkpoint, weights_only=False)
    stored["state_dict"]["head.fc.bias"] += 1e-3
    torch.save(stored, tmp_path / "other.pth")
    option = f"model.teacher.checkpoint={tmp_path}/other.pth"
    ended = tools.run("train", config, "--work-dir", tmp_path, "--resume", "--cfg-options", option)
    refused(ended, "resume: teacher 'teacher' differs from the one this run began with")


@pytest.mark.parametrize("cause", ["learning rate", "loss weight"])
def test_a_loss_that_is_not_finite_stops_the_run(tools: Tools, world: World, tmp_path: Path, cause: str) -> None:
    """The learning rate is far too large from the second epoch on, or a schedule blows a weight up."""
    if cause == "learning rate":
        changes = 'param_scheduler = dict(_delete_=True, type="MultiStepLR", by_epoch=True, milestones=[1], gamma=1e30)'
    else:
        schedule = 'dict(type="PiecewiseConstant", levels=[1.0, 1e38], bounds=[1], unit="epochs")'
        changes = f"model = dict(recipe=dict(losses=dict(scd=dict(schedule={schedule}))))"
    config = world.distil(f"diverging_{cause[:4]}.py", changes=changes)
    ended = tools.run("train", config, "--work-dir", tmp_path, "--cfg-options", "train_cfg.max_epochs=3")
    line = failed(ended, "loss is not finite")
    assert line.startswith("error: iteration ")
    iteration = int(line.split()[2].rstrip(":"))
    assert 5 <= iteration < 10
    # With the weight, no stage is to blame: each stage's own value is finite.
    assert ("scd at stage1" if cause == "learning rate" else "(loss_scd)") in line
    assert (tmp_path / "last_checkpoint").read_text().endswith("epoch_1.pth")
    assert sorted(path.name for path in tmp_path.glob("epoch_*")) == ["epoch_1.pth"]
    assert all(value.isfinite().all() for value in weights(tmp_path / "epoch_1.pth").values())
