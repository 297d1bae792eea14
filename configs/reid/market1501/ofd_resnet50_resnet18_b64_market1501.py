_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/ofd.py"]

model = dict(recipe={{_base_.ofd}})
default_hooks = {{_base_.kd_hooks}}
