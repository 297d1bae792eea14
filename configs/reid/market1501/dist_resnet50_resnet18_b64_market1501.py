_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/dist.py"]

model = dict(recipe={{_base_.dist}})
default_hooks = {{_base_.kd_hooks}}
