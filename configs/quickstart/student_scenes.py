_base_ = "./_scenes.py"

model = dict(backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32]))
