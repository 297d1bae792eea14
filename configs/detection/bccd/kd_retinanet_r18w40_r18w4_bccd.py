_base_ = ["./_r18w40_r18w4.py", "../../_base_/recipes/detection/kd.py"]

model = dict(recipe={{_base_.kd}})
default_hooks = {{_base_.kd_hooks}}
