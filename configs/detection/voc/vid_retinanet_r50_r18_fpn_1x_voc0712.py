_base_ = ["./_retinanet_r50_r18.py", "../../_base_/recipes/vid.py"]

model = dict(recipe={{_base_.vid}})
default_hooks = {{_base_.kd_hooks}}
