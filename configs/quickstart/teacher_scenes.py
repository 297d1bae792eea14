_base_ = "./_scenes.py"

param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.04, begin=0, end=50, by_epoch=False),
    dict(type="mmengine.CosineAnnealingLR", T_max=14, by_epoch=True, convert_to_iter_based=True, eta_min=0.0),
]
train_cfg = dict(max_epochs=14)
