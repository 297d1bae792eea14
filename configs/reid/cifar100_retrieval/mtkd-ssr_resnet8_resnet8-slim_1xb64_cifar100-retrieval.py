_base_ = ["./resnet8-slim_1xb64_cifar100-retrieval.py", "../../_base_/recipes/reid/mtkd_ssr.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::reid/cifar100_retrieval/resnet8_1xb64_cifar100-retrieval.py",
        checkpoint="checkpoints/cifar100_retrieval/resnet8.pth",
    ),
    recipe={{_base_.mtkd_ssr}},
)
default_hooks = {{_base_.kd_hooks}}
