_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/reid/mag.py"]

model = dict(recipe={{_base_.mag}})
default_hooks = {{_base_.kd_hooks}}
