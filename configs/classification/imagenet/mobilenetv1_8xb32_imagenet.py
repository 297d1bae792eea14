_base_ = [
    "../../_base_/models/mobilenet_v1.py",
    "../../_base_/datasets/imagenet.py",
    "../../_base_/schedules/sgd_b256_100e.py",
    "../../_base_/default_runtime.py",
]
