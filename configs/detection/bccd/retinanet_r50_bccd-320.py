# The teacher: a full ResNet-50, a wider pyramid and a deeper head, trained longer.
_base_ = "./retinanet_r18w8_bccd-320.py"

model = dict(
    backbone=dict(depth=50, base_channels=64),
    neck=dict(in_channels=[256, 512, 1024, 2048], out_channels=128),
    bbox_head=dict(in_channels=128, stacked_convs=2, feat_channels=128, norm_cfg=dict(num_groups=16)),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.04, begin=0, end=100, by_epoch=False),
    dict(type="CosineAnnealingLR", T_max=60, by_epoch=True, convert_to_iter_based=True, eta_min=0.0),
]
train_cfg = dict(max_epochs=60)
