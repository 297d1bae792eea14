# Blood cells (BCCD, https://github.com/Shenggan/BCCD_Dataset, MIT): 364 images of 640 x 480 in VOC's layout, three
# classes. Everything is sized for a CPU: images of 256 x 192, no pretrained weights, narrow networks. Lengths and rates
# were chosen on the validation split; the test split is looked at after the last epoch.
default_scope = "mmdet"

bccd_root = "data/bccd/VOCdevkit"
bccd_set = dict(
    type="kd_mm.VOCDataset",
    data_root=bccd_root,
    data_prefix=dict(sub_data_root="VOC2007/"),
    metainfo=dict(classes=("RBC", "WBC", "Platelets"), palette=[(213, 94, 0), (0, 114, 178), (0, 158, 115)]),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="mmdet.LoadAnnotations", with_bbox=True),
    dict(type="mmdet.Resize", scale=(256, 192), keep_ratio=True),
    dict(type="mmdet.RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
    dict(type="mmdet.RandomShift", prob=0.5, max_shift_px=24),
    dict(type="mmdet.PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="mmdet.Resize", scale=(256, 192), keep_ratio=True),
    dict(type="mmdet.LoadAnnotations", with_bbox=True),
    dict(type="mmdet.PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(
        **bccd_set,
        ann_file="VOC2007/ImageSets/Main/train.txt",
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(**bccd_set, ann_file="VOC2007/ImageSets/Main/val.txt", test_mode=True, pipeline=test_pipeline),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(**bccd_set, ann_file="VOC2007/ImageSets/Main/test.txt", test_mode=True, pipeline=test_pipeline),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
val_evaluator = dict(type="kd_mm.DetectionMetric")
test_evaluator = val_evaluator

# Cells are about 16 (platelets), 40 (red) and 80 (white) pixels wide and round: three levels with square anchors of 16
# to 102 pixels.
model = dict(
    type="mmdet.RetinaNet",
    data_preprocessor=dict(
        type="mmdet.DetDataPreprocessor",
        mean=[170.0, 180.0, 180.0],
        std=[40.0, 40.0, 40.0],
        bgr_to_rgb=False,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type="mmdet.ResNet",
        depth=18,
        base_channels=4,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type="BN"),
        norm_eval=False,
    ),
    neck=dict(type="mmdet.FPN", in_channels=[4, 8, 16, 32], start_level=1, out_channels=16, num_outs=3),
    bbox_head=dict(
        type="mmdet.RetinaHead",
        num_classes=3,
        in_channels=16,
        stacked_convs=1,
        feat_channels=16,
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
        assigner=dict(type="mmdet.MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type="mmdet.PseudoSampler"),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=500, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=100
    ),
)

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=4e-3, weight_decay=1e-2),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.04, begin=0, end=150, by_epoch=False),
    dict(type="CosineAnnealingLR", T_max=36, by_epoch=True, convert_to_iter_based=True, eta_min=0.0),
]
train_cfg = dict(by_epoch=True, max_epochs=36, val_interval=6)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=26),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        type="CheckpointHook", backend_args=dict(backend="kd_mm.AtomicLocalBackend"), interval=6, max_keep_ckpts=1
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    exact_resume=dict(type="kd_mm.ExactResumeHook"),
)
