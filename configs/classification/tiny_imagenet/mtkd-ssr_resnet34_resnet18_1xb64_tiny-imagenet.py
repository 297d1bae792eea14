_base_ = ["./resnet18_1xb64_tiny-imagenet.py", "../../_base_/recipes/tiny_imagenet/mtkd_ssr.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::classification/tiny_imagenet/resnet34_1xb64_tiny-imagenet.py",
        checkpoint="checkpoints/tiny_imagenet/resnet34.pth",
    ),
    recipe={{_base_.mtkd_ssr}},
    input_size=64,
)
default_hooks = {{_base_.kd_hooks}}
