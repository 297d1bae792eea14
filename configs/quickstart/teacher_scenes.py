# Digits in scenes: the teacher, and everything that the student changes nothing of. Choices are made on the validation
# split; the test split is used after the last epoch. The first data set that is built writes the scenes to data_root.
default_scope = "mmdet"
data_root = "data/digit_scenes"

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(
        type="kd_mm.DigitScenes",
        split="train",
        data_root=data_root,
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="mmdet.LoadAnnotations", with_bbox=True),
            dict(type="mmdet.RandomShift", prob=0.5, max_shift_px=12),
            dict(type="mmdet.PackDetInputs"),
        ],
    ),
    sampler=dict(type="mmengine.DefaultSampler", shuffle=True),
)
_test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="mmdet.Resize", scale=(128, 96), keep_ratio=True),
    dict(type="mmdet.LoadAnnotations", with_bbox=True),
    dict(type="mmdet.PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
val_dataloader = dict(
    batch_size=20,
    num_workers=0,
    dataset=dict(type="kd_mm.DigitScenes", split="val", data_root=data_root, pipeline=_test_pipeline, test_mode=True),
    sampler=dict(type="mmengine.DefaultSampler", shuffle=False),
)
test_dataloader = dict(
    batch_size=20,
    num_workers=0,
    dataset=dict(type="kd_mm.DigitScenes", split="test", data_root=data_root, pipeline=_test_pipeline, test_mode=True),
    sampler=dict(type="mmengine.DefaultSampler", shuffle=False),
)
val_evaluator = dict(type="kd_mm.DetectionMetric")
test_evaluator = val_evaluator

# A small GFL: digits are 20 to 44 pixels high, so two levels of the pyramid (strides 8 and 16) see all of them.
model = dict(
    type="mmdet.GFL",
    data_preprocessor=dict(
        type="mmdet.DetDataPreprocessor", mean=[127.0] * 3, std=[60.0] * 3, bgr_to_rgb=False, pad_size_divisor=16
    ),
    backbone=dict(
        type="mmdet.ResNet",
        depth=18,
        base_channels=32,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(0, 1, 2),
        norm_cfg=dict(type="BN"),
        norm_eval=False,
    ),
    neck=dict(type="mmdet.FPN", in_channels=[32, 64, 128], start_level=1, out_channels=32, num_outs=2),
    bbox_head=dict(
        type="mmdet.GFLHead",
        num_classes=10,
        in_channels=32,
        stacked_convs=1,
        feat_channels=32,
        reg_max=7,
        norm_cfg=dict(type="GN", num_groups=8),
        anchor_generator=dict(
            type="mmdet.AnchorGenerator",
            ratios=[1.0],
            octave_base_scale=2.5,
            scales_per_octave=1,
            strides=[8, 16],
        ),
        loss_cls=dict(type="mmdet.QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type="mmdet.DistributionFocalLoss", loss_weight=0.25),
        loss_bbox=dict(type="mmdet.GIoULoss", loss_weight=2.0),
    ),
    train_cfg=dict(assigner=dict(type="mmdet.ATSSAssigner", topk=9), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=200, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.6), max_per_img=20
    ),
)

optim_wrapper = dict(
    type="mmengine.OptimWrapper",
    # With the usual 0.999 the averages reach back over more than these few hundred steps.
    optimizer=dict(type="mmengine.AdamW", lr=5e-3, betas=(0.9, 0.98), weight_decay=1e-2, fused=True),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.04, begin=0, end=50, by_epoch=False),
    dict(type="mmengine.CosineAnnealingLR", T_max=14, by_epoch=True, convert_to_iter_based=True, eta_min=0.0),
]
train_cfg = dict(by_epoch=True, max_epochs=14, val_interval=2)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(
    timer=dict(type="mmengine.IterTimerHook"),
    logger=dict(type="mmengine.LoggerHook", interval=25),
    param_scheduler=dict(type="mmengine.ParamSchedulerHook"),
    checkpoint=dict(
        type="CheckpointHook", backend_args=dict(backend="kd_mm.AtomicLocalBackend"), interval=10, max_keep_ckpts=1
    ),
    channels_last=dict(type="kd_mm.ChannelsLastHook"),
    sampler_seed=dict(type="mmengine.DistSamplerSeedHook"),
)
