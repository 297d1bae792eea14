_base_ = ["./_gfl_r101_r50.py", "../../_base_/recipes/detection/mtkd_ssr.py"]

model = dict(recipe={{_base_.mtkd_ssr}})
default_hooks = {{_base_.kd_hooks}}
