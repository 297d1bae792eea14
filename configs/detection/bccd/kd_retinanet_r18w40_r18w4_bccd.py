_base_ = ["./retinanet_r18w4_bccd.py", "../../_base_/distillers/detection/kd.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::detection/bccd/retinanet_r18w40_bccd.py",
        checkpoint="checkpoints/bccd/retinanet_r18w40.pth",
    ),
    recipe={{_base_.kd}},
)
default_hooks = {{_base_.kd_hooks}}
