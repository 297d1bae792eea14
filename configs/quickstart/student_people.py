_base_ = "./teacher_people.py"

model = dict(backbone=dict(stem_channels=8, base_channels=8), head=dict(in_channels=64))
optim_wrapper = dict(optimizer=dict(lr=4e-3))
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.05, begin=0, end=50, by_epoch=False),
    dict(type="mmengine.CosineAnnealingLR", T_max=30, by_epoch=True, convert_to_iter_based=True, eta_min=0.0),
]
train_cfg = dict(max_epochs=30, val_interval=5)
