_base_ = ["./_resnet50_mobilenetv2.py", "../../_base_/recipes/reid/rkd.py"]

model = dict(recipe={{_base_.rkd}})
default_hooks = {{_base_.kd_hooks}}
