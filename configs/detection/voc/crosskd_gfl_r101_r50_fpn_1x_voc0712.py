_base_ = ["./_gfl_r101_r50.py", "../../_base_/recipes/detection/crosskd.py"]

model = dict(recipe={{_base_.crosskd}})
default_hooks = {{_base_.kd_hooks}}
