_base_ = ["./_gfl_r101_r50.py", "../../_base_/recipes/detection/pkd.py"]

model = dict(recipe={{_base_.pkd}})
default_hooks = {{_base_.kd_hooks}}
