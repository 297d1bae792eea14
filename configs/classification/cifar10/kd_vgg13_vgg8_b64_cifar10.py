_base_ = ["./vgg8_b64_cifar10.py", "../../_base_/distillers/kd.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::classification/cifar10/vgg13_b64_cifar10.py",
        checkpoint="checkpoints/cifar10/vgg13.pth",
    ),
    recipe={{_base_.kd}},
)
default_hooks = {{_base_.kd_hooks}}
