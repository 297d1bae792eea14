_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/reviewkd.py"]

model = dict(recipe={{_base_.reviewkd}})
default_hooks = {{_base_.kd_hooks}}
