_base_ = ["./_resnet50_mobilenetv2.py", "../../_base_/recipes/reid/kd.py"]

model = dict(recipe={{_base_.kd}})
default_hooks = {{_base_.kd_hooks}}
