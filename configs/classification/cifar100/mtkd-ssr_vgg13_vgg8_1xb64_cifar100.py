_base_ = ["./vgg8_1xb64_cifar100.py", "../../_base_/recipes/mtkd_ssr.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::classification/cifar100/vgg13_1xb64_cifar100.py",
        checkpoint="checkpoints/cifar100/vgg13.pth",
    ),
    recipe={{_base_.mtkd_ssr}},
    # The deepest three of four, as many as in the benchmark's other networks.
    stages=["backbone.layer2", "backbone.layer3", "backbone.layer4"],
)
default_hooks = {{_base_.kd_hooks}}
