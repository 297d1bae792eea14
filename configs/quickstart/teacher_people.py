# Drawn people, synthetic, in the layout of Market-1501: the teacher, and everything that the student does not change.
# Choices are made on the validation split, whose people are in neither training nor test; the test gallery is used
# after the last epoch. The first data set that is built writes the images to data_root.
default_scope = "mmpretrain"
data_root = "data/people"

data_preprocessor = dict(
    type="mmpretrain.ClsDataPreprocessor", num_classes=80, mean=[110.0] * 3, std=[55.0] * 3, to_rgb=True
)
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    dataset=dict(
        type="kd_mm.People",
        data_root=data_root,
        split="train",
        pipeline=[
            dict(type="mmpretrain.LoadImageFromFile"),
            dict(type="mmpretrain.RandomFlip", prob=0.5, direction="horizontal"),
            dict(type="mmpretrain.RandomCrop", crop_size=(64, 32), padding=4),
            dict(type="mmpretrain.RandomErasing", erase_prob=0.5, fill_color=(110, 110, 110)),
            dict(type="mmpretrain.PackInputs"),
        ],
    ),
    # batch_size is num_identities * num_images.
    sampler=dict(type="kd_mm.IdentitySampler", num_identities=8, num_images=4),
)
_test_pipeline = [dict(type="mmpretrain.LoadImageFromFile"), dict(type="mmpretrain.PackInputs")]
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    dataset=dict(type="kd_mm.People", data_root=data_root, split="val", pipeline=_test_pipeline, test_mode=True),
    sampler=dict(type="mmengine.DefaultSampler", shuffle=False),
)
test_dataloader = dict(
    batch_size=100,
    num_workers=0,
    dataset=dict(type="kd_mm.People", data_root=data_root, split="test", pipeline=_test_pipeline, test_mode=True),
    sampler=dict(type="mmengine.DefaultSampler", shuffle=False),
)
val_evaluator = dict(type="kd_mm.ReIDMetric")
test_evaluator = val_evaluator

# A small ResNet-18: the first stage halves the resolution, the last does not.
model = dict(
    type="kd_mm.ReIDModel",
    backbone=dict(type="mmpretrain.ResNet_CIFAR", depth=18, stem_channels=16, base_channels=16, strides=(2, 2, 2, 1)),
    neck=dict(type="mmpretrain.GlobalAveragePooling"),
    head=dict(
        type="kd_mm.BNNeckHead",
        num_classes=80,
        in_channels=128,
        loss=dict(type="mmpretrain.LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
        metric_losses=dict(triplet=dict(type="kd_mm.TripletLoss", margin=0.3)),
    ),
)

optim_wrapper = dict(type="mmengine.OptimWrapper", optimizer=dict(type="mmengine.Adam", lr=2e-3, weight_decay=5e-4))
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.05, begin=0, end=50, by_epoch=False),
    dict(type="mmengine.CosineAnnealingLR", T_max=60, by_epoch=True, convert_to_iter_based=True, eta_min=0.0),
]
train_cfg = dict(by_epoch=True, max_epochs=60, val_interval=10)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(
    timer=dict(type="mmengine.IterTimerHook"),
    logger=dict(type="mmengine.LoggerHook", interval=20),
    param_scheduler=dict(type="mmengine.ParamSchedulerHook"),
    checkpoint=dict(
        type="CheckpointHook", backend_args=dict(backend="kd_mm.AtomicLocalBackend"), interval=10, max_keep_ckpts=1
    ),
    sampler_seed=dict(type="mmengine.DistSamplerSeedHook"),
)
