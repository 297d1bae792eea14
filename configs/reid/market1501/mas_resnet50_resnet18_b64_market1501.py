_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/reid/mas.py"]

model = dict(recipe={{_base_.mas}})
default_hooks = {{_base_.kd_hooks}}
