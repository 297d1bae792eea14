_base_ = "./resnet20_b64_tiny-imagenet.py"

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::classification/tiny_imagenet/resnet56_b64_tiny-imagenet.py",
        checkpoint="checkpoints/tiny_imagenet/resnet56.pth",
    ),
)
