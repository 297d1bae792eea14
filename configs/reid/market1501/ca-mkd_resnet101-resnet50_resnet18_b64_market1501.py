_base_ = ["./_resnet101-resnet50_resnet18.py", "../../_base_/recipes/ca_mkd.py"]

model = dict(recipe={{_base_.ca_mkd}})
default_hooks = {{_base_.kd_hooks}}
