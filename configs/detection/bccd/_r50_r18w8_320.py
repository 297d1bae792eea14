_base_ = "./retinanet_r18w8_bccd-320.py"

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::detection/bccd/retinanet_r50_bccd-320.py", checkpoint="checkpoints/bccd/retinanet_r50-320.pth"
    ),
)
