_base_ = ["./_faster-rcnn_r50_r18.py", "../../_base_/recipes/detection/ema_teacher.py"]

model = dict(teacher=None, recipe={{_base_.ema_teacher}})
default_hooks = {{_base_.kd_hooks}}
