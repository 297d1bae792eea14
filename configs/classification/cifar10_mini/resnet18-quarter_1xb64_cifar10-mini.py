# A ResNet-18 of a quarter of its width on 500 CIFAR-10 images a class (50 of them for validation) at 48 pixels: a
# student for teachers from ImageNet. data/cifar10-mini is a part of CIFAR-10 in the official layout.
_base_ = [
    "mmpretrain::_base_/models/resnet18.py",
    "../../_base_/datasets/cifar10.py",
    "../../_base_/schedules/sgd_bs64_240e.py",
    "../../_base_/default_runtime.py",
]

model = dict(
    backbone=dict(stem_channels=16, base_channels=16),
    head=dict(num_classes=10, in_channels=128),
)

enlarged = dict(type="Resize", scale=(48, 48))
test_pipeline = [enlarged, dict(type="PackInputs")]
data = dict(data_root="data/cifar10-mini", allow_partial=True, val_size=500)
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        split="train",
        pipeline=[
            enlarged,
            dict(type="RandomCrop", crop_size=48, padding=6),
            dict(type="RandomFlip", prob=0.5, direction="horizontal"),
            dict(type="PackInputs"),
        ],
        **data,
    ),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(split="val", pipeline=test_pipeline, **data),
)
test_dataloader = dict(
    batch_size=250,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(split="test", pipeline=test_pipeline, **data),
)
param_scheduler = dict(_delete_=True, type="mmengine.CosineAnnealingLR", T_max=4, by_epoch=True)
train_cfg = dict(max_epochs=4, val_interval=2)
