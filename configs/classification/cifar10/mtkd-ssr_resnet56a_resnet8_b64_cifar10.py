_base_ = ["./_resnet56a_resnet8.py", "../../_base_/recipes/mtkd_ssr.py"]

model = dict(recipe={{_base_.mtkd_ssr}})
default_hooks = {{_base_.kd_hooks}}
