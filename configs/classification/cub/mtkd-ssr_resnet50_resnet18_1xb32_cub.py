_base_ = ["./resnet18_1xb32_cub.py", "../../_base_/recipes/cub/mtkd_ssr.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(config="kd_mm::classification/cub/resnet50_1xb32_cub.py", checkpoint="checkpoints/cub/resnet50.pth"),
    recipe={{_base_.mtkd_ssr}},
)
default_hooks = {{_base_.kd_hooks}}
