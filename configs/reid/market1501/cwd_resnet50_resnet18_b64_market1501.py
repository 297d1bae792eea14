_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/cwd.py"]

model = dict(recipe={{_base_.cwd}})
default_hooks = {{_base_.kd_hooks}}
