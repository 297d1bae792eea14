_base_ = [
    "../../_base_/models/resnet18_cifar.py",
    "../../_base_/datasets/tiny_imagenet.py",
    "../../_base_/schedules/sgd_b64_240e.py",
    "../../_base_/default_runtime.py",
]

model = dict(head=dict(num_classes=200))
