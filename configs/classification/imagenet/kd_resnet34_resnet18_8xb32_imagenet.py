_base_ = ["./_resnet34_resnet18.py", "./_kd.py"]

model = dict(recipe={{_base_.kd}})
default_hooks = {{_base_.kd_hooks}}
