_base_ = "./resnet8_1xb64_cifar100-retrieval.py"

model = dict(backbone=dict(widths=(4, 8, 16, 32)), head=dict(in_channels=32))
# The teacher trains twice as long.
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.05, begin=0, end=75, by_epoch=False),
    dict(type="mmengine.CosineAnnealingLR", T_max=8, by_epoch=True, convert_to_iter_based=True, eta_min=0.0),
]
train_cfg = dict(max_epochs=8)
