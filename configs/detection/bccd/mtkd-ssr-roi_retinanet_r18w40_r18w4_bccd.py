_base_ = ["./_r18w40_r18w4.py", "./_mtkd_ssr_roi.py"]

model = dict(recipe={{_base_.mtkd_ssr}})
default_hooks = {{_base_.kd_hooks}}
