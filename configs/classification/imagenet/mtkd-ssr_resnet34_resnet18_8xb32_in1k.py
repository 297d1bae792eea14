_base_ = ["./resnet18_8xb32_in1k.py", "../../_base_/recipes/imagenet/mtkd_ssr.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(config="mmpretrain::resnet/resnet34_8xb32_in1k.py", checkpoint="checkpoints/imagenet/resnet34.pth"),
    recipe={{_base_.mtkd_ssr}},
)
default_hooks = {{_base_.kd_hooks}}
