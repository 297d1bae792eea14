_base_ = ["./resnet20_1xb64_cifar100.py", "../../_base_/recipes/mtkd_ssr.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::classification/cifar100/resnet56_1xb64_cifar100.py",
        checkpoint="checkpoints/cifar100/resnet56.pth",
    ),
    recipe={{_base_.mtkd_ssr}},
)
default_hooks = {{_base_.kd_hooks}}
