_base_ = ["./_resnet32x4_resnet8x4.py", "../../_base_/recipes/mtkd_ssr.py"]

model = dict(recipe={{_base_.mtkd_ssr}})
default_hooks = {{_base_.kd_hooks}}
