_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/pkd.py"]

model = dict(recipe={{_base_.pkd}})
default_hooks = {{_base_.kd_hooks}}
