_base_ = "./resnet8_b64_cifar100-small.py"

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::classification/cifar100_small/resnet20_b128_cifar100-small.py",
        checkpoint="work_dirs/resnet20_b128_cifar100-small/epoch_15.pth",
    ),
)
