_base_ = ["./student_scenes.py", "./_mtkd_ssr_scenes.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(config="kd_mm::quickstart/teacher_scenes.py", checkpoint="work_dirs/teacher_scenes/epoch_14.pth"),
    recipe={{_base_.mtkd_ssr}},
    task=dict(type="kd_mm.DetectionTask", extra_regions=4),
)
default_hooks = {{_base_.kd_hooks}}
