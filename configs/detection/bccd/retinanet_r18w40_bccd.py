# The teacher: ten times as wide as the student, with a wider pyramid and a deeper head, trained longer.
_base_ = "./retinanet_r18w4_bccd.py"

model = dict(
    backbone=dict(base_channels=40),
    neck=dict(in_channels=[40, 80, 160, 320], out_channels=64),
    bbox_head=dict(in_channels=64, stacked_convs=2, feat_channels=64, norm_cfg=dict(num_groups=8)),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.04, begin=0, end=150, by_epoch=False),
    dict(type="CosineAnnealingLR", T_max=48, by_epoch=True, convert_to_iter_based=True, eta_min=0.0),
]
train_cfg = dict(max_epochs=48)
