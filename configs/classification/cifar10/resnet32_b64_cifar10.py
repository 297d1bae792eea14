_base_ = [
    "../../_base_/models/cifar_resnet.py",
    "../../_base_/datasets/cifar10.py",
    "../../_base_/schedules/sgd_b64_240e.py",
    "../../_base_/default_runtime.py",
]

model = dict(backbone=dict(depth=32), head=dict(num_classes=10))
