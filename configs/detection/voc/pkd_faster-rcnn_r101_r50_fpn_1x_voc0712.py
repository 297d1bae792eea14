_base_ = ["./_faster-rcnn_r101_r50.py", "./_pkd_two-stage.py"]

model = dict(recipe={{_base_.pkd}})
default_hooks = {{_base_.kd_hooks}}
