# The student: ResNet-18 an eighth as wide, a narrow pyramid, a head of one layer.
_base_ = "./_bccd-320.py"

model = dict(
    backbone=dict(base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, norm_cfg=dict(num_groups=8)),
)
