_base_ = ["./faster-rcnn_r18_fpn_1x_voc0712.py", "../../_base_/recipes/detection/byot.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=None,
    recipe={{_base_.byot}},
)
default_hooks = {{_base_.kd_hooks}}
