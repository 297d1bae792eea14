_base_ = ["./_r50_r18w8_320.py", "../../_base_/recipes/detection/kd.py"]

model = dict(recipe={{_base_.kd}})
default_hooks = {{_base_.kd_hooks}}
