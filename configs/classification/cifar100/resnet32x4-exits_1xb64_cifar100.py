# ResNet-32x4 trained together with exits on its stages: a teacher for `teacher_exits.mode="joint"`.
_base_ = ["./resnet32x4_1xb64_cifar100.py", "../../_base_/recipes/hooks.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    recipe=dict(exits=dict(type="kd_mm.SepConvExit"), losses=dict(aux=dict(type="kd_mm.ExitTaskLoss"))),
)
default_hooks = {{_base_.kd_hooks}}
