_base_ = [
    "../../_base_/models/classifier.py",
    "../../_base_/datasets/tiny_imagenet.py",
    "../../_base_/schedules/sgd_bs64_240e.py",
    "../../_base_/default_runtime.py",
]

model = dict(backbone=dict(type="ResNet_CIFAR", depth=34), head=dict(num_classes=200, in_channels=512))
