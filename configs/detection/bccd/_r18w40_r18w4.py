_base_ = "./retinanet_r18w4_bccd.py"

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::detection/bccd/retinanet_r18w40_bccd.py", checkpoint="checkpoints/bccd/retinanet_r18w40.pth"
    ),
)
