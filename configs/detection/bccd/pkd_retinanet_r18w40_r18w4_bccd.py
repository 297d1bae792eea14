_base_ = ["./_r18w40_r18w4.py", "./_pkd.py"]

model = dict(recipe={{_base_.pkd}})
default_hooks = {{_base_.kd_hooks}}
