_base_ = ["./_retinanet_r50_r18.py", "../../_base_/recipes/detection/pkd.py"]

model = dict(recipe={{_base_.pkd}})
default_hooks = {{_base_.kd_hooks}}
