_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/sp.py"]

model = dict(recipe={{_base_.sp}})
default_hooks = {{_base_.kd_hooks}}
