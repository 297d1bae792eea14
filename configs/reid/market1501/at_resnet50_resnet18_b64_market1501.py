_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/at.py"]

model = dict(recipe={{_base_.at}})
default_hooks = {{_base_.kd_hooks}}
