_base_ = ["./_resnet56_resnet20.py", "./_mtkd_ssr.py"]

model = dict(
    recipe={{_base_.mtkd_ssr}},
    input_size=64,
)
default_hooks = {{_base_.kd_hooks}}
