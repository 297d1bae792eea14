_base_ = ["./_retinanet_r50_r18.py", "../../_base_/recipes/detection/byot.py"]

model = dict(teacher=None, recipe={{_base_.byot}})
default_hooks = {{_base_.kd_hooks}}
