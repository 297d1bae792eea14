# MTKD-SSR for detectors; the training of the teacher's exits fits the quickstart, the weights are the recipe's.
_base_ = "../_base_/distillers/detection/mtkd_ssr.py"

mtkd_ssr = dict(teacher_exits=dict(epochs=8, milestones=[6]))
kd_hooks = dict(exit_probe=dict(type="kd_mm.ExitProbeHook"))
