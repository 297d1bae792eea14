_base_ = ["./_resnet101-resnet50_resnet18.py", "../../_base_/recipes/multi_kd.py"]

model = dict(recipe={{_base_.multi_kd}})
default_hooks = {{_base_.kd_hooks}}
