# Runway debris (FOD-A, https://github.com/FOD-UNOmaha/FOD-data, MIT): 2,480 photographs, 31 classes, one object each.
# Sized for one CPU core: images of 160 px, no pretrained weights, a narrow ResNet-18, few epochs. Choices are made on
# the validation split; the test split is looked at after the last epoch.
_base_ = "../bccd/retinanet_r18w4_bccd.py"

_foda_set = dict(
    data_root="data/foda/VOCdevkit",
    metainfo=dict(
        _delete_=True,
        classes=(
            "AdjustableClamp", "AdjustableWrench", "Battery", "Bolt", "BoltNutSet", "BoltWasher", "ClampPart", "Cutter",
            "FuelCap", "Hammer", "Hose", "Label", "LuggagePart", "LuggageTag", "MetalPart", "MetalSheet", "Nail", "Nut",
            "PaintChip", "Pen", "PlasticPart", "Pliers", "Rock", "Screw", "Screwdriver", "SodaCan", "Tape", "Washer",
            "Wire", "Wood", "Wrench",
        ),
    ),
)  # fmt: skip
train_dataloader = dict(
    batch_size=16,
    dataset=dict(
        **_foda_set,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="mmdet.LoadAnnotations", with_bbox=True),
            dict(type="mmdet.Resize", scale=(160, 160), keep_ratio=True),
            dict(type="mmdet.RandomFlip", prob=0.5),
            dict(type="mmdet.RandomShift", prob=0.5, max_shift_px=15),
            dict(type="mmdet.PackDetInputs"),
        ],
    ),
)
_test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="mmdet.Resize", scale=(160, 160), keep_ratio=True),
    dict(type="mmdet.LoadAnnotations", with_bbox=True),
    dict(type="mmdet.PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
val_dataloader = dict(batch_size=31, dataset=dict(**_foda_set, pipeline=_test_pipeline))
test_dataloader = dict(batch_size=31, dataset=dict(**_foda_set, pipeline=_test_pipeline))

# A small GFL, whose boxes are distributions (LD distils them). Most objects are 8 to 75 pixels wide: three levels.
model = dict(
    type="mmdet.GFL",
    data_preprocessor=dict(mean=[127.0] * 3, std=[60.0] * 3),
    backbone=dict(base_channels=24),
    neck=dict(in_channels=[24, 48, 96, 192], out_channels=32),
    bbox_head=dict(
        _delete_=True,
        type="mmdet.GFLHead",
        num_classes=31,
        in_channels=32,
        stacked_convs=2,
        feat_channels=32,
        reg_max=7,
        norm_cfg=dict(type="GN", num_groups=4),
        anchor_generator=dict(
            type="mmdet.AnchorGenerator",
            ratios=[1.0],
            octave_base_scale=2.5,
            scales_per_octave=1,
            strides=[8, 16, 32],
        ),
        loss_cls=dict(type="mmdet.QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type="mmdet.DistributionFocalLoss", loss_weight=0.25),
        loss_bbox=dict(type="mmdet.GIoULoss", loss_weight=2.0),
    ),
    train_cfg=dict(
        _delete_=True, assigner=dict(type="mmdet.ATSSAssigner", topk=9), allowed_border=-1, pos_weight=-1, debug=False
    ),
    test_cfg=dict(nms_pre=200, max_per_img=20),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.04, begin=0, end=100, by_epoch=False),
    dict(type="CosineAnnealingLR", T_max=24, by_epoch=True, convert_to_iter_based=True, eta_min=0.0),
]
train_cfg = dict(max_epochs=24, val_interval=12)
default_hooks = dict(checkpoint=dict(interval=24), channels_last=dict(type="kd_mm.ChannelsLastHook"))
