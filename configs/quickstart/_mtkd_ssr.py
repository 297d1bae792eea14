# MTKD-SSR with its lengths scaled from 240 epochs to the 60 of the quickstart; its weights are the recipe's.
_base_ = "../_base_/distillers/mtkd_ssr.py"

mtkd_ssr = dict(
    teacher_exits=dict(epochs=25, milestones=[8, 15, 22]),
    losses=dict(review=dict(schedule=dict(epochs=5))),
)
kd_hooks = dict(exit_probe=dict(type="kd_mm.ExitProbeHook"))
