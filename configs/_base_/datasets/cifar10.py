_base_ = "./cifar100.py"

data_preprocessor = dict(
    num_classes=10,
    mean=[125.307, 122.961, 113.8575],
    std=[62.985, 62.0925, 66.708],
)

train_dataloader = dict(dataset=dict(type="kd_mm.CIFAR10", data_root="data/cifar10"))
val_dataloader = dict(dataset=dict(type="kd_mm.CIFAR10", data_root="data/cifar10"))
test_dataloader = dict(dataset=dict(type="kd_mm.CIFAR10", data_root="data/cifar10"))
