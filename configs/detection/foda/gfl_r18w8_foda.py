_base_ = "./gfl_r18w24_foda.py"

# A third of the teacher's width, one convolution less in the head, fewer epochs. Neck and head are as wide as the
# teacher's, as usual for detectors (CrossKD needs it); avg_down halves resolutions in a way that a CPU carries in
# channels_last.
model = dict(
    backbone=dict(base_channels=8, avg_down=True),
    neck=dict(in_channels=[8, 16, 32, 64]),
    bbox_head=dict(stacked_convs=1),
)
optim_wrapper = dict(optimizer=dict(lr=4e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.04, begin=0, end=50, by_epoch=False),
    dict(type="CosineAnnealingLR", T_max=3, by_epoch=True, convert_to_iter_based=True, eta_min=0.0),
]
train_cfg = dict(max_epochs=3, val_interval=3)
default_hooks = dict(checkpoint=dict(interval=3))
