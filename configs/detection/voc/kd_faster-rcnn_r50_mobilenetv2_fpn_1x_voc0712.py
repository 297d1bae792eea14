_base_ = ["./_faster-rcnn_r50_mobilenetv2.py", "../../_base_/recipes/detection/kd.py"]

model = dict(recipe={{_base_.kd}})
default_hooks = {{_base_.kd_hooks}}
