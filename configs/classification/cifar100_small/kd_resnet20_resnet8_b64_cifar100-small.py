_base_ = ["./_resnet20_resnet8.py", "../../_base_/distillers/kd.py"]

model = dict(recipe={{_base_.kd}})
default_hooks = {{_base_.kd_hooks}}
