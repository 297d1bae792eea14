_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/reid/kd_standardized.py"]

model = dict(recipe={{_base_.kd_standardized}})
default_hooks = {{_base_.kd_hooks}}
