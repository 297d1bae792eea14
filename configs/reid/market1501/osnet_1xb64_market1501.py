_base_ = [
    "../../_base_/models/reid_baseline.py",
    "../../_base_/datasets/market1501.py",
    "../../_base_/schedules/reid_adam_bs64_120e.py",
    "../../_base_/default_runtime.py",
]

# deep-person-reid's osnet_x1_0_imagenet.pth, converted: tools/convert_checkpoint.py with _base_/models/osnet.py
checkpoint = "checkpoints/imagenet/osnet.pth"

model = dict(
    backbone=dict(type="kd_mm.OSNet", init_cfg=dict(type="Pretrained", checkpoint=checkpoint, prefix="backbone")),
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
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint, prefix="neck"),
    ),
    head=dict(in_channels=512),
)
