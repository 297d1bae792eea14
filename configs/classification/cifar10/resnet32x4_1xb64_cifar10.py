_base_ = [
    "../../_base_/models/classifier.py",
    "../../_base_/datasets/cifar10.py",
    "../../_base_/schedules/sgd_bs64_240e.py",
    "../../_base_/default_runtime.py",
]

model = dict(
    backbone=dict(type="kd_mm.CIFARResNet", depth=32, widths=(32, 64, 128, 256)),
    head=dict(num_classes=10, in_channels=256),
)
