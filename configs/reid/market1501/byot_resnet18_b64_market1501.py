_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/reid/byot.py"]

model = dict(teacher=None, recipe={{_base_.byot}})
default_hooks = {{_base_.kd_hooks}}
