_base_ = "./gfl_r50_fpn_1x_voc0712.py"

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(config="kd_mm::detection/voc/gfl_r101_fpn_1x_voc0712.py", checkpoint="checkpoints/voc/gfl_r101.pth"),
)
