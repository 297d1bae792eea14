_base_ = ["./retinanet_r18w8_bccd-320.py", "./_pkd.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::detection/bccd/retinanet_r50_bccd-320.py",
        checkpoint="checkpoints/bccd/retinanet_r50-320.pth",
    ),
    recipe={{_base_.pkd}},
)
default_hooks = {{_base_.kd_hooks}}
