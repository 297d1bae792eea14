_base_ = [
    "mmpretrain::_base_/models/resnet18.py",
    "../../_base_/datasets/imagenet.py",
    "mmpretrain::_base_/schedules/imagenet_bs256.py",
    "../../_base_/default_runtime.py",
]
