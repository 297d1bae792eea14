_base_ = ["./retinanet_r18w8_bccd-320.py", "../../_base_/recipes/detection/mtkd_ssr.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::detection/bccd/retinanet_r50_bccd-320.py", checkpoint="checkpoints/bccd/retinanet_r50.pth"
    ),
    recipe={{_base_.mtkd_ssr}},
)
default_hooks = {{_base_.kd_hooks}}
