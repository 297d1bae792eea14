_base_ = [
    "../../_base_/models/classifier.py",
    "../../_base_/datasets/cifar100.py",
    "../../_base_/schedules/sgd_bs64_240e.py",
    "../../_base_/default_runtime.py",
]

model = dict(backbone=dict(type="kd_mm.CIFARResNet", depth=8), head=dict(in_channels=64))
