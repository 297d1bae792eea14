_base_ = ["./_faster-rcnn_r50_r18.py", "../../_base_/recipes/detection/mtkd_ssr.py"]

model = dict(recipe={{_base_.mtkd_ssr}})
default_hooks = {{_base_.kd_hooks}}
