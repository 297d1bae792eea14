_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/dkd.py"]

model = dict(recipe={{_base_.dkd}})
default_hooks = {{_base_.kd_hooks}}
