_base_ = ["./resnet18_1xb64_market1501.py", "../../_base_/recipes/reid/byot.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=None,
    recipe={{_base_.byot}},
)
default_hooks = {{_base_.kd_hooks}}
