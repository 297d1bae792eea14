"""A small world on disk: images in class folders, and the config files that a user would write for them."""

from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
DISTILLERS = ROOT / "configs" / "_base_" / "recipes"
CLASSES = ("blue", "green", "red")
TRAIN, VAL = 60, 25

PLAIN = """
default_scope = "mmpretrain"
data_preprocessor = dict(num_classes=3, mean=[120.0, 120.0, 120.0], std=[60.0, 60.0, 60.0], to_rgb=True)
model = dict(
    type="ImageClassifier",
    backbone=dict(type="kd_mm.CIFARResNet", depth=8, widths=(8, 8, 16, 32)),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=3, in_channels=32, loss=dict(type="CrossEntropyLoss"), topk=(1,)),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="RandomCrop", crop_size=20, padding=2),
    dict(type="PackInputs"),
]
test_pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
train_dataloader = dict(
    batch_size=12,
    num_workers=0,
    dataset=dict(type="CustomDataset", data_root=r"DATA", data_prefix="train", pipeline=train_pipeline),
    sampler=dict(type="DefaultSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=12,
    num_workers=0,
    dataset=dict(type="CustomDataset", data_root=r"DATA", data_prefix="val", pipeline=test_pipeline),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.05, momentum=0.9, weight_decay=1e-4))
param_scheduler = dict(type="MultiStepLR", by_epoch=True, milestones=[1], gamma=0.3)
auto_scale_lr = dict(base_batch_size=6)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=2),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0))
randomness = dict(seed=3, deterministic=True)
"""

TEACHER = """
_base_ = "plain.py"
model = dict(backbone=dict(depth=14))
train_dataloader = dict(batch_size=6)
train_cfg = dict(max_epochs=6)
param_scheduler = dict(milestones=[5])
"""

DISTIL = """
_base_ = ["{plain}", r"{recipes}/{recipe}.py"]
model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{{{_base_.model}}}},
    teacher=dict(config=r"{teacher}", checkpoint=r"{checkpoint}"),
    recipe={{{{_base_.{recipe}}}}},
    input_size=20,
)
default_hooks = {{{{_base_.kd_hooks}}}}
"""

#: A short preparation of the teacher's exits, for the recipe of MTKD-SSR.
SHORT = """
mtkd_ssr = dict(
    teacher_exits=dict(epochs=3, milestones=[2 / 3]),
    losses=dict(scd=dict(loss_weight=1.0), review=dict(schedule=dict(epochs=2, fraction=None))),
)
"""


class World:
    """A folder with ``data/``, ``plain.py``, ``teacher.py`` and whatever a test writes beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        draw_images(folder / "data")
        self.write("plain.py", PLAIN.replace("DATA", str(folder / "data")))
        self.write("teacher.py", TEACHER)
        self.teacher = folder / "teacher.py"
        self.plain = folder / "plain.py"
        self.checkpoint = folder / "teacher.pth"
        self.taught = ["--teacher", self.teacher, "--teacher-checkpoint", self.checkpoint]

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def distil(self, name: str, recipe: str = "mtkd_ssr", changes: str = "", plain: str = "plain.py") -> Path:
        """Write a distillation config; ``changes`` are the lines of a further config, which inherits from it."""
        recipes = DISTILLERS
        if recipe == "mtkd_ssr":
            self.write("recipes/mtkd_ssr.py", f'_base_ = r"{DISTILLERS}/mtkd_ssr.py"\n{SHORT}\n')
            recipes = self.folder / "recipes"
        text = DISTIL.format(
            plain=plain,
            recipes=recipes,
            recipe=recipe,
            teacher=self.teacher,
            checkpoint=self.checkpoint,
        )
        if not changes:
            return self.write(name, text)
        return self.write(name, f'_base_ = "{self.write(f"unchanged_{name}", text).name}"\n{changes}\n')


def exits_in(folder: Path) -> str:
    """Return the lines of a config whose runs share a folder of prepared exits."""
    return f'default_hooks = dict(prepare_teachers=dict(cache_dir=r"{folder}"))'


def draw_images(folder: Path) -> None:
    """Draw noisy images of three colours, 20 px wide, into one folder a class; always the same ones."""
    rng = np.random.RandomState(5)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for number in range(count):
            label = number % len(CLASSES)
            image = rng.randint(40, 200, (20, 20, 3)).astype(np.float64)
            image[..., 2 - label] += 60
            path = folder / split / CLASSES[label] / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
