# The same set at the size that a GPU carries: images of 320 x 240, batches of 16, and anchors that grow with the cells.
_base_ = "./retinanet_r18w4_bccd.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="mmdet.LoadAnnotations", with_bbox=True),
    dict(type="mmdet.Resize", scale=(320, 240), keep_ratio=True),
    dict(type="mmdet.RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
    dict(type="mmdet.RandomShift", prob=0.5, max_shift_px=30),
    dict(type="mmdet.PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="mmdet.Resize", scale=(320, 240), keep_ratio=True),
    dict(type="mmdet.LoadAnnotations", with_bbox=True),
    dict(type="mmdet.PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(batch_size=16, num_workers=2, persistent_workers=True, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=32, num_workers=1, persistent_workers=True, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(batch_size=32, num_workers=1, persistent_workers=True, dataset=dict(pipeline=test_pipeline))

model = dict(
    backbone=dict(base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(
        in_channels=32,
        feat_channels=32,
        norm_cfg=dict(num_groups=8),
        anchor_generator=dict(octave_base_scale=2.5),
    ),
)

param_scheduler = [
    dict(type="LinearLR", start_factor=0.04, begin=0, end=100, by_epoch=False),
    dict(type="CosineAnnealingLR", T_max=48, by_epoch=True, convert_to_iter_based=True, eta_min=0.0),
]
train_cfg = dict(max_epochs=48, val_interval=12)
default_hooks = dict(logger=dict(interval=13), checkpoint=dict(interval=12))
