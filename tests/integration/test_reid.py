"""Re-identification as a user runs it: a small folder in the layout of Market-1501, a teacher, every recipe."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.devices import PAIRS

from ..helpers.compare import differences, weights
from ..helpers.market_folder import MarketFolder
from ..helpers.tools import KILLED, Tools
from ..test_configs import CONFIGS

PLAIN = """
_base_ = "kd_mm::reid/market1501/resnet18_1xb64_market1501.py"
folder = dict(data_root=r"DATA", expected_counts=None)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="RandomCrop", crop_size=(32, 16), padding=2),
    dict(type="RandomErasing", erase_prob=0.5),
    dict(type="PackInputs"),
]
test_pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
few = dict(batch_size=8, num_workers=0, persistent_workers=False)
train_dataloader = dict(
    **few, dataset=dict(**folder, pipeline=train_pipeline), sampler=dict(num_identities=4, num_images=2)
)
val_dataloader = dict(**few, dataset=dict(**folder, pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(
    backbone=dict(base_channels=4, stem_channels=4, init_cfg=dict(_delete_=True, type="Kaiming", layer="Conv2d")),
    head=dict(in_channels=32, num_classes=6),
)
optim_wrapper = dict(optimizer=dict(lr=3e-3))
param_scheduler = [dict(type="LinearLR", start_factor=0.1, end=1, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1))
auto_scale_lr = dict(base_batch_size=8)
randomness = dict(seed=1)
"""
#: Three batches of 2 x 2 images an epoch for each of two processes; checkpoints after the second and the fourth.
PAIR = """
_base_ = "teacher.py"
custom_imports = dict(imports=["kd_mm", "tests.helpers.recorder_hooks"], allow_failed_imports=False)
train_dataloader = dict(
    batch_size=4, num_workers=1, persistent_workers=True, sampler=dict(num_identities=2, num_images=2)
)
train_cfg = dict(max_epochs=3, val_interval=3)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2), batches=dict(type="kd_mm.BatchRecorderHook"))
"""
TEACHER = """
_base_ = "plain.py"
model = dict(head=dict(metric_losses=dict(soft=dict(type="kd_mm.TripletLoss", margin=None))))
train_cfg = dict(max_epochs=14, val_interval=14)
"""
SHORT = [
    "model.recipe.teacher_exits.epochs=2",
    "model.recipe.teacher_exits.milestones=[0.5]",
    "default_hooks.probe.type=kd_mm.ExitProbeHook",
]


class Street:
    """Configs, images and a trained teacher."""

    def __init__(self, folder: Path, tools: Tools) -> None:
        self.folder, self.tools = folder, tools
        self.images = MarketFolder(folder / "street").fill()
        self.plain, self.teacher = folder / "plain.py", folder / "teacher.py"
        self.plain.write_text(PLAIN.replace("DATA", str(self.images.root)))
        self.teacher.write_text(TEACHER)
        self.checkpoint = folder / "teacher" / "epoch_14.pth"

    def options(self, recipe: str) -> list[object]:
        chosen = ["--distiller", recipe, "--teacher", self.teacher, "--teacher-checkpoint", self.checkpoint]
        return [self.plain, *chosen, *(["--cfg-options", *SHORT] if recipe == "mtkd_ssr" else [])]


@pytest.fixture(scope="module")
def street(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Street:
    made = Street(tmp_path_factory.mktemp("reid"), tools)
    ended = tools.train(made.teacher, "--work-dir", made.folder / "teacher")
    for term in ("loss_id", "loss_triplet", "loss_soft"):
        assert term in ended.out
    assert "3 queries of 3 identities; 7 gallery images, 1 of them distractors; 2 junk images left out" in ended.out
    assert "reid/mAP: " in ended.out
    return made


def refused(street: Street, *arguments: object) -> str:
    return street.tools.refused("train", *arguments)


TERMS = {
    "mtkd_ssr": ["loss_aux", "loss_scd", "loss_srd", "loss_review", "srd.stage4"],
    "kd": ["loss_kd"],
    "rkd": ["loss_rkd_distance", "loss_rkd_angle"],
    "crd": ["loss_contrast"],
}


@pytest.mark.parametrize("recipe", TERMS)
def test_every_recipe_from_the_command_line(street: Street, tmp_path: Path, recipe: str) -> None:
    ended = street.tools.train(*street.options(recipe), "--work-dir", tmp_path)
    for term in ["loss_id", "loss_triplet", *TERMS[recipe]]:
        assert f" {term}: " in ended.out
    assert "reid/Rank-1: " in ended.out
    assert "of the first 24 training images" in ended.out
    if recipe == "mtkd_ssr":
        assert "identity accuracy on the training data: stage 1: " in ended.out
        assert "the validation data have other classes than the exits: exits are not measured" in ended.out
        assert "exit/" not in ended.out
    stored = weights(tmp_path / "epoch_2.pth")
    assert {key for key in stored if not key.startswith("distill.")} == set(weights(street.checkpoint))


def test_an_evaluation_that_can_never_be_valid_stops_before_the_first_step(street: Street, tmp_path: Path) -> None:
    images = MarketFolder(tmp_path / "street").fill()
    for path in [*images.root.glob("bounding_box_test/*"), *images.root.glob("query/*")]:
        path.rename(path.with_name(path.name.replace("_c2", "_c1")))
    data = ["--cfg-options", f"train_dataloader.dataset.data_root={images.root}"]
    data += [f"{part}_dataloader.dataset.data_root={images.root}" for part in ("val", "test")]
    line = refused(street, street.plain, "--work-dir", tmp_path / "run", *data)
    assert line.startswith("error: val_evaluator: none of the 3 queries has an image of its person from another camera")
    assert "camera_rule=False" in line
    wrong = ["--cfg-options", "default_hooks.checkpoint.save_best=mAP"]
    line = refused(street, street.plain, "--work-dir", tmp_path / "run", *wrong)
    assert "default_hooks.checkpoint.save_best: the validation gives no metric 'mAP', did you mean 'reid/mAP'?" in line
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_is_trained_with_its_exits(street: Street, tmp_path: Path) -> None:
    short = ["--cfg-options", "train_cfg.max_epochs=2", "default_hooks.teacher_check.min_score=0"]
    street.tools.train(street.teacher, "--with-exits", "--work-dir", tmp_path / "teacher", *short[:2])
    options = ["--teacher", street.teacher, "--teacher-checkpoint", tmp_path / "teacher" / "epoch_2.pth"]
    ended = street.tools.train(street.plain, "--distiller", "mtkd_ssr", *options, "--work-dir", tmp_path, *short)
    assert "exits of teacher 'teacher': loaded" in ended.out
    # Six identities as often as each other.
    assert "identity accuracy on up to 512 images of the training data: stage 1: " in ended.out
    assert "(chance 16.7%)" in ended.out


@pytest.mark.parametrize("tools", PAIRS, indirect=True)
def test_two_processes_that_were_killed_go_on_exactly(street: Street, tmp_path: Path) -> None:
    """Killed in the middle of an epoch, a step after a checkpoint, both processes."""
    config, uncut, cut = street.folder / "pair.py", tmp_path / "uncut", tmp_path / "cut"
    config.write_text(PAIR)
    options = [config, "--distiller", "kd", "--teacher", street.teacher, "--teacher-checkpoint", street.checkpoint]
    options += ["--launcher", "pytorch", "--resume", "auto", "--work-dir"]
    street.tools.train(*options, uncut, ranks=2)
    assert street.tools.run("train", *options, cut, ranks=2, kill={"iteration": 5}).status == KILLED
    recorded = [recorded_images(cut, rank) for rank in (0, 1)]
    assert (cut / "last_checkpoint").read_text().endswith("iter_4.pth")
    ended = street.tools.train(*options, cut, ranks=2)
    assert "Going on after batch 1 of this pass" in ended.out
    assert "reid/queries: 3.0000  reid/gallery: 7.0000  reid/junk: 2.0000" in ended.out
    assert "will differ from an uninterrupted" not in ended.out
    for rank in (0, 1):
        expected = recorded_images(uncut, rank)
        assert len(expected) == 9
        assert recorded[rank] == expected[:5]
        assert recorded_images(cut, rank) == expected[:5] + expected[4:]
    # Two identities for each process in a step: never the other's images.
    for first, second in zip(recorded_images(uncut, 0), recorded_images(uncut, 1), strict=True):
        assert not set(first) & set(second[2:])
    states = [torch.load(folder / "iter_9.pth", weights_only=False) for folder in (uncut, cut)]
    for part in ("state_dict", "optimizer", "param_schedulers", "exact_resume"):
        assert differences(*(state[part] for state in states)) == []


def recorded_images(folder: Path, rank: int) -> list[list[str]]:
    """Epoch, step and images of each step of a process."""
    return [line.split() for line in (folder / f"batches{rank}").read_text().splitlines()]


def test_other_identities_are_refused_where_logits_are_compared(street: Street, tmp_path: Path) -> None:
    order = "train_dataloader.dataset.metainfo.classes=[4,2,6,8,10,12]"
    line = refused(street, *street.options("kd"), "--work-dir", tmp_path, "--cfg-options", order)
    assert "lists its classes in another order: class 0 is '0002' for the teacher, '0004' in the data set" in line
    assert "embedding losses (recipes rkd and cosine)" in line
    other = "train_dataloader.dataset.metainfo.classes=[4,2,6,8,10,12,99]"
    sized = "model.student.head.num_classes=7"
    line = refused(street, *street.options("kd"), "--work-dir", tmp_path, "--cfg-options", other, sized)
    assert "the student has 7 classes, teacher 'teacher' has 6" in line
    ended = street.tools.train(*street.options("rkd"), "--work-dir", tmp_path, "--cfg-options", other, sized)
    assert "loss_rkd_distance: " in ended.out


def test_what_is_wrong_with_the_images_is_one_line(street: Street, tmp_path: Path) -> None:
    images = MarketFolder(tmp_path / "bad").fill()
    here = ["--work-dir", tmp_path / "run", "--cfg-options", f"train_dataloader.dataset.data_root={images.root}"]
    path = images.add("bounding_box_train", 2, 1)[0]
    path.write_bytes(path.read_bytes()[:300])
    assert f"1 of 25 images of {images.root}" in refused(street, street.plain, *here)
    shipped = CONFIGS / "reid/market1501/resnet18_1xb64_market1501.py"
    assert "holds 25 images, Market-1501 has 12936" in refused(street, shipped, *here, "model.backbone.init_cfg=None")
    crowd = "train_dataloader.sampler.num_identities=9"
    line = refused(street, street.plain, "--work-dir", tmp_path / "run", "--cfg-options", crowd)
    assert "train_dataloader: batch_size=8, but its IdentitySampler makes batches of 9 identities x 2 images" in line
    assert not (tmp_path / "run").exists()


def test_queries_that_were_copied_from_the_gallery(street: Street, tmp_path: Path) -> None:
    images = MarketFolder(tmp_path / "copied").fill()
    path, *_ = sorted(images.root.glob("query/*"))
    shutil.copy(path, images.root / "bounding_box_test")
    options = ["--work-dir", tmp_path / "run", "--cfg-options", f"test_dataloader.dataset.data_root={images.root}"]
    words = "1 of 3 queries are in the gallery as the same file or a copy of it ("
    assert words not in street.tools.test(street.teacher, street.checkpoint, *options).out  # of one camera
    assert (
        words in street.tools.test(street.teacher, street.checkpoint, *options, "test_evaluator.camera_rule=False").out
    )


def test_triplets_in_batches_of_all_identities(street: Street, tmp_path: Path) -> None:
    sampler = 'train_dataloader = dict(sampler=dict(_delete_=True, type="DefaultSampler", shuffle=True))'
    (street.folder / "drawn.py").write_text(f'_base_ = "plain.py"\n{sampler}\ntrain_cfg = dict(max_epochs=1)\n')
    words = "train_dataloader.sampler: few of 8 images drawn from all are of one identity, as TripletLoss needs them"
    assert words in street.tools.train(street.folder / "drawn.py", "--work-dir", tmp_path).out


def test_an_evaluation_with_re_ranking(street: Street, tmp_path: Path) -> None:
    options = ["--work-dir", tmp_path, "--cfg-options", "test_evaluator.rerank=True", "test_evaluator.rerank.k1=2"]
    assert "reid/mAP: " in street.tools.test(street.teacher, street.checkpoint, *options).out


def test_a_grey_student_of_a_colour_teacher_with_another_pooling(street: Street, tmp_path: Path) -> None:
    load = 'dict(type="LoadImageFromFile", color_type="grayscale"), dict(type="Resize", scale=(32, 64))'
    data = f'dict(dataset=dict(pipeline=[{load}, dict(type="PackInputs")]))'
    grey = street.folder / "grey.py"
    grey.write_text(f"""
_base_ = "plain.py"
train_dataloader, val_dataloader, test_dataloader = {data}, {data}, {data}
data_preprocessor = dict(mean=[120.0], std=[60.0], to_rgb=False)
model = dict(backbone=dict(in_channels=1), neck=dict(type="mmpretrain.GeneralizedMeanPooling"))
train_cfg = dict(max_epochs=1)
""")
    command = [grey, *street.options("rkd")[1:], "--work-dir", tmp_path / "run"]
    assert "takes images of 3 channels, the student of 1: model.teacher.repeat_grey=True" in refused(street, *command)
    street.tools.train(*command, "--cfg-options", "model.teacher.repeat_grey=True")
    stored = weights(tmp_path / "run" / "epoch_1.pth")
    assert stored["backbone.conv1.weight"].shape[1] == 1
    assert float(stored["neck.p"]) != 3.0
