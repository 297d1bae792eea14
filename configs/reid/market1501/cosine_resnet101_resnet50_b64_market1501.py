_base_ = ["./_resnet101_resnet50.py", "../../_base_/recipes/cosine.py"]

model = dict(recipe={{_base_.cosine}})
default_hooks = {{_base_.kd_hooks}}
