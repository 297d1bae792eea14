_base_ = ["./_r50_r18w8_320.py", "./_mtkd_ssr_roi.py"]

model = dict(recipe={{_base_.mtkd_ssr}})
default_hooks = {{_base_.kd_hooks}}
