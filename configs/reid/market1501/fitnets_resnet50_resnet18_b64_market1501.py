_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/fitnets.py"]

model = dict(recipe={{_base_.fitnets}})
default_hooks = {{_base_.kd_hooks}}
