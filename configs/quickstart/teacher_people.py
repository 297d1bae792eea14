_base_ = "./_people.py"

# The teacher trains twice as long as the students.
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.05, begin=0, end=50, by_epoch=False),
    dict(type="mmengine.CosineAnnealingLR", T_max=60, by_epoch=True, convert_to_iter_based=True, eta_min=0.0),
]
train_cfg = dict(max_epochs=60, val_interval=10)
