# MTKD-SSR as its recipe says; the accuracy of every exit is followed for the picture.
_base_ = "../_base_/recipes/mtkd_ssr.py"

kd_hooks = dict(exit_probe=dict(type="kd_mm.ExitProbeHook"))
