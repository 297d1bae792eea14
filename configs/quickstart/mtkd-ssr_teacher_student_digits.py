_base_ = ["./student_digits.py", "../_base_/recipes/mtkd_ssr.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(config="kd_mm::quickstart/teacher_digits.py", checkpoint="work_dirs/teacher_digits/epoch_60.pth"),
    recipe={{_base_.mtkd_ssr}},
    input_size=16,
)
default_hooks = {{_base_.kd_hooks}}
# Logs the accuracy of every exit, for the picture.
custom_hooks = [dict(type="kd_mm.ExitProbeHook")]
