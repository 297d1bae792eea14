_base_ = ["./_resnet110_resnet32.py", "../../_base_/recipes/kd.py"]

model = dict(recipe={{_base_.kd}})
default_hooks = {{_base_.kd_hooks}}
