_base_ = ["./_gfl_r101_r50.py", "../../_base_/recipes/detection/kd.py"]

model = dict(recipe={{_base_.kd}})
default_hooks = {{_base_.kd_hooks}}
