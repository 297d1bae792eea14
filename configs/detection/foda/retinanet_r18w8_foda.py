_base_ = "./retinanet_r18w24_foda.py"

# As gfl_r18w8_foda.py is to its teacher: a third of the width, one convolution less in the head, fewer epochs.
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
