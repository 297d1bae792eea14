_base_ = ["./_faster-rcnn_r50_r18.py", "../../_base_/recipes/detection/fitnets.py"]

model = dict(recipe={{_base_.fitnets}})
default_hooks = {{_base_.kd_hooks}}
