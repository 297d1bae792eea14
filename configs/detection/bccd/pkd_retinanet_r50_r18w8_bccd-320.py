_base_ = ["./_r50_r18w8_320.py", "./_pkd.py"]

model = dict(recipe={{_base_.pkd}})
default_hooks = {{_base_.kd_hooks}}
