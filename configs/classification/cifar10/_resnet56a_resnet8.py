_base_ = "./resnet8_b64_cifar10.py"

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::classification/cifar10/resnet56a_b64_cifar10.py",
        checkpoint="checkpoints/cifar10/resnet56a.pth",
    ),
)
