_base_ = "./resnet8x4_b64_cifar100.py"

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::classification/cifar100/resnet32x4_b64_cifar100.py",
        checkpoint="checkpoints/cifar100/resnet32x4.pth",
    ),
)
