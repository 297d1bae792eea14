_base_ = ["./_faster-rcnn_r50_r18.py", "./_fgd_two-stage.py"]

model = dict(recipe={{_base_.fgd}})
default_hooks = {{_base_.kd_hooks}}
