_base_ = "mmpretrain::_base_/default_runtime.py"

# Checkpoints are written atomically, and a resumed run continues bit for bit.
default_hooks = dict(
    checkpoint=dict(type="CheckpointHook", backend_args=dict(backend="kd_mm.AtomicLocalBackend"), max_keep_ckpts=2),
    exact_resume=dict(type="kd_mm.ExactResumeHook"),
)
