_base_ = ["./_wrn-40-2_shufflenetv1.py", "../../_base_/recipes/kd.py"]

model = dict(recipe={{_base_.kd}})
default_hooks = {{_base_.kd_hooks}}
