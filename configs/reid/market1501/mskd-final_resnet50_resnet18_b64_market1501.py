_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/reid/mskd_final.py"]

model = dict(recipe={{_base_.mskd_final}})
default_hooks = {{_base_.kd_hooks}}
