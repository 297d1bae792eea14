# OSNet x1.0 as a classifier of ImageNet, the form in which its weights are published. Its embedding is the neck's.
model = dict(
    type="ImageClassifier",
    _scope_="mmpretrain",
    backbone=dict(type="kd_mm.OSNet"),
    neck=dict(
        type="mmpretrain.LinearNeck",
        in_channels=512,
        out_channels=512,
        gap_dim=2,
        norm_cfg=dict(type="BN1d"),
        act_cfg=dict(type="ReLU"),
    ),
    head=dict(type="LinearClsHead", num_classes=1000, in_channels=512, loss=dict(type="CrossEntropyLoss")),
)
