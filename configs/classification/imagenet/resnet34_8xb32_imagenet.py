_base_ = [
    "mmpretrain::_base_/models/resnet34.py",
    "../../_base_/datasets/imagenet.py",
    "../../_base_/schedules/sgd_b256_100e.py",
    "../../_base_/default_runtime.py",
]
