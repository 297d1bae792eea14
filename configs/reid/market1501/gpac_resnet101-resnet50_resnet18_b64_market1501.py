_base_ = ["./_resnet101-resnet50_resnet18.py", "../../_base_/recipes/gpac.py"]

model = dict(recipe={{_base_.gpac}})
default_hooks = {{_base_.kd_hooks}}
