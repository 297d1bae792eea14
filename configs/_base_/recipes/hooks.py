# What a distillation needs around its iterations. A leaf config takes it with `default_hooks = {{_base_.kd_hooks}}`,
# which adds to the hooks of the upstream config. `custom_hooks` or `custom_imports` here would collide with upstream's;
# the engine imports kd_mm by itself when it meets the scope of a type.
kd_hooks = dict(
    teacher_check=dict(type="kd_mm.TeacherCheckHook"),
    prepare_teachers=dict(type="kd_mm.PrepareTeachersHook"),
    ema_teacher=dict(type="kd_mm.EMATeacherHook"),
    distill=dict(type="kd_mm.DistillHook"),
    checkpoint=dict(type="CheckpointHook", backend_args=dict(backend="kd_mm.AtomicLocalBackend")),
    exact_resume=dict(type="kd_mm.ExactResumeHook"),
)
