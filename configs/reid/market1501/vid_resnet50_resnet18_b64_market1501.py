_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/vid.py"]

model = dict(recipe={{_base_.vid}})
default_hooks = {{_base_.kd_hooks}}
