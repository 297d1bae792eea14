_base_ = "./teacher_scenes.py"

# Half the width of the teacher.
model = dict(backbone=dict(base_channels=16), neck=dict(in_channels=[16, 32, 64]))
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.04, begin=0, end=50, by_epoch=False),
    dict(type="mmengine.CosineAnnealingLR", T_max=10, by_epoch=True, convert_to_iter_based=True, eta_min=0.0),
]
train_cfg = dict(max_epochs=10)
