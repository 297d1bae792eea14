_base_ = ["./student_scenes.py", "../_base_/recipes/detection/mtkd_ssr.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(config="kd_mm::quickstart/teacher_scenes.py", checkpoint="work_dirs/teacher_scenes/epoch_14.pth"),
    recipe={{_base_.mtkd_ssr}},
)
default_hooks = {{_base_.kd_hooks}}
