_base_ = "mmpretrain::_base_/default_runtime.py"

# Checkpoints are whole or absent, and a resumed run goes on to the same bits.
default_hooks = dict(
    checkpoint=dict(type="kd_mm.CheckpointHook", max_keep_ckpts=2), exact_resume=dict(type="kd_mm.ExactResumeHook")
)
