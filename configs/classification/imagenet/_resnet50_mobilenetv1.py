_base_ = "./mobilenetv1_8xb32_imagenet.py"

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="mmpretrain::resnet/resnet50_8xb32_in1k.py",
        checkpoint="checkpoints/imagenet/resnet50.pth",
    ),
)
