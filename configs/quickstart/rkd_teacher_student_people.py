_base_ = ["./student_people.py", "../_base_/recipes/reid/rkd.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(config="kd_mm::quickstart/teacher_people.py", checkpoint="work_dirs/teacher_people/epoch_60.pth"),
    recipe={{_base_.rkd}},
)
default_hooks = {{_base_.kd_hooks}}
