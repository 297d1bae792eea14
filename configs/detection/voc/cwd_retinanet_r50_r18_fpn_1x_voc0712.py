_base_ = ["./retinanet_r18_fpn_1x_voc0712.py", "../../_base_/recipes/detection/cwd.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::detection/voc/retinanet_r50_fpn_1x_voc0712.py",
        checkpoint="checkpoints/voc/retinanet_r50.pth",
    ),
    recipe={{_base_.cwd}},
)
default_hooks = {{_base_.kd_hooks}}
