_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/reid/mskd.py"]

model = dict(recipe={{_base_.mskd}})
default_hooks = {{_base_.kd_hooks}}
