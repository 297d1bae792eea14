_base_ = [
    "../../_base_/models/classifier.py",
    "../../_base_/datasets/cifar10.py",
    "../../_base_/schedules/sgd_bs64_240e.py",
    "../../_base_/default_runtime.py",
]

# mmpretrain's ResNet without the first pooling: the "ResNet50" of the RepDistiller benchmark.
model = dict(backbone=dict(type="ResNet_CIFAR", depth=50), head=dict(num_classes=10, in_channels=2048))
