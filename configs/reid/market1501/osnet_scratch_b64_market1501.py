_base_ = [
    "../../_base_/models/reid_baseline.py",
    "../../_base_/datasets/market1501.py",
    "../../_base_/schedules/reid_adam_b64_120e.py",
    "../../_base_/default_runtime.py",
]

model = dict(
    backbone=dict(type="kd_mm.OSNet"),
    # Its stride is 16 as published.
    last_stride=None,
    # Its fully connected layer.
    neck=dict(
        _delete_=True,
        type="mmpretrain.LinearNeck",
        in_channels=512,
        out_channels=512,
        gap_dim=2,
        norm_cfg=dict(type="BN1d"),
        act_cfg=dict(type="ReLU"),
    ),
    head=dict(in_channels=512),
)
