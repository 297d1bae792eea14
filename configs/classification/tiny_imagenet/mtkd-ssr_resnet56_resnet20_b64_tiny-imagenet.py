_base_ = ["./resnet20_b64_tiny-imagenet.py", "./_mtkd_ssr.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::classification/tiny_imagenet/resnet56_b64_tiny-imagenet.py",
        checkpoint="checkpoints/tiny_imagenet/resnet56.pth",
    ),
    recipe={{_base_.mtkd_ssr}},
    input_size=64,
)
default_hooks = {{_base_.kd_hooks}}
