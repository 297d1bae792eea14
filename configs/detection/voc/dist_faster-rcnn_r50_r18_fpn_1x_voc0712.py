_base_ = ["./_faster-rcnn_r50_r18.py", "../../_base_/recipes/detection/dist.py"]

model = dict(recipe={{_base_.dist}})
default_hooks = {{_base_.kd_hooks}}
