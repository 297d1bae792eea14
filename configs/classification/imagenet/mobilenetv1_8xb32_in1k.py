_base_ = [
    "../../_base_/models/classifier.py",
    "../../_base_/datasets/imagenet.py",
    "mmpretrain::_base_/schedules/imagenet_bs256.py",
    "../../_base_/default_runtime.py",
]

model = dict(backbone=dict(type="kd_mm.MobileNetV1"), head=dict(num_classes=1000, in_channels=1024))
