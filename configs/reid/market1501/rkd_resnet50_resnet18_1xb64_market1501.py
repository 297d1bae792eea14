_base_ = ["./resnet18_1xb64_market1501.py", "../../_base_/recipes/reid/rkd.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::reid/market1501/resnet50_1xb64_market1501.py",
        checkpoint="checkpoints/market1501/resnet50.pth",
    ),
    recipe={{_base_.rkd}},
)
default_hooks = {{_base_.kd_hooks}}
