_base_ = ["./_faster-rcnn_r101_r50.py", "../../_base_/recipes/detection/cwd.py"]

model = dict(recipe={{_base_.cwd}})
default_hooks = {{_base_.kd_hooks}}
