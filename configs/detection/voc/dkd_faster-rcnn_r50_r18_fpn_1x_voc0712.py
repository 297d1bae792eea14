_base_ = ["./faster-rcnn_r18_fpn_1x_voc0712.py", "../../_base_/recipes/detection/dkd.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::detection/voc/faster-rcnn_r50_fpn_1x_voc0712.py",
        checkpoint="checkpoints/voc/faster-rcnn_r50.pth",
    ),
    recipe={{_base_.dkd}},
)
default_hooks = {{_base_.kd_hooks}}
