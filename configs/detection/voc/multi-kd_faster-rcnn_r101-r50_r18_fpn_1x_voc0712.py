_base_ = ["./_faster-rcnn_r101-r50_r18.py", "../../_base_/recipes/detection/multi_kd.py"]

model = dict(recipe={{_base_.multi_kd}})
default_hooks = {{_base_.kd_hooks}}
