_base_ = ["./_resnet101_resnet50.py", "../../_base_/recipes/reid/mtkd_ssr.py"]

model = dict(recipe={{_base_.mtkd_ssr}})
default_hooks = {{_base_.kd_hooks}}
