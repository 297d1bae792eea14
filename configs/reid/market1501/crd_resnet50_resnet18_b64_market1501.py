_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/crd.py"]

model = dict(recipe={{_base_.crd}})
default_hooks = {{_base_.kd_hooks}}
