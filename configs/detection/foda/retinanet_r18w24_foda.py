_base_ = "./gfl_r18w24_foda.py"

# A RetinaNet in place of the GFL: anchors of three sizes a level, boxes by L1.
model = dict(
    type="mmdet.RetinaNet",
    bbox_head=dict(
        _delete_=True,
        type="mmdet.RetinaHead",
        num_classes=31,
        in_channels=32,
        stacked_convs=2,
        feat_channels=32,
        norm_cfg=dict(type="GN", num_groups=4),
        anchor_generator=dict(
            type="mmdet.AnchorGenerator",
            octave_base_scale=2,
            scales_per_octave=3,
            ratios=[1.0],
            strides=[8, 16, 32],
        ),
        bbox_coder=dict(type="mmdet.DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type="mmdet.FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="mmdet.L1Loss", loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(
            _delete_=True,
            type="mmdet.MaxIoUAssigner",
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            ignore_iof_thr=-1,
        ),
        sampler=dict(type="mmdet.PseudoSampler"),
    ),
)
