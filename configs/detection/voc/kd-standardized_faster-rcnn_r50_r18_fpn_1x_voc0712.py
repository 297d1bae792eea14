_base_ = ["./_faster-rcnn_r50_r18.py", "../../_base_/recipes/detection/kd_standardized.py"]

model = dict(recipe={{_base_.kd_standardized}})
default_hooks = {{_base_.kd_hooks}}
