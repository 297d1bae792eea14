_base_ = "./_people.py"

model = dict(backbone=dict(stem_channels=8, base_channels=8), head=dict(in_channels=64))
optim_wrapper = dict(optimizer=dict(lr=4e-3))
