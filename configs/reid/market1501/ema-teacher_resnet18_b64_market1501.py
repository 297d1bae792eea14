_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/ema_teacher.py"]

model = dict(teacher=None, recipe={{_base_.ema_teacher}})
default_hooks = {{_base_.kd_hooks}}
