_base_ = ["./_wrn-40-2_wrn-16-2.py", "../../_base_/recipes/mtkd_ssr.py"]

model = dict(recipe={{_base_.mtkd_ssr}})
default_hooks = {{_base_.kd_hooks}}
