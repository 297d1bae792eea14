# Retrieval over classes of CIFAR-100 that training did not use: the teacher, and everything that the student changes
# nothing of. 80 classes to train on, 20 others to search among, a subset and a length that two cores train in minutes.
# Choices are made on further images of the training classes; the test classes are used after the last epoch.
default_scope = "mmpretrain"
data_root = "data/cifar100"

data_preprocessor = dict(
    type="mmpretrain.ClsDataPreprocessor",
    num_classes=80,
    mean=[129.3, 124.1, 112.4],
    std=[68.2, 65.4, 70.4],
    to_rgb=False,  # the data set gives RGB
)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(
        type="kd_mm.CIFAR100Retrieval",
        data_root=data_root,
        split="train",
        samples_per_class=60,
        pipeline=[
            dict(type="mmpretrain.RandomCrop", crop_size=32, padding=4),
            dict(type="mmpretrain.RandomFlip", prob=0.5, direction="horizontal"),
            dict(type="mmpretrain.PackInputs"),
        ],
    ),
    # batch_size is num_identities * num_images.
    sampler=dict(type="kd_mm.IdentitySampler", num_identities=16, num_images=4),
)
_test_pipeline = [dict(type="mmpretrain.PackInputs")]
val_dataloader = dict(
    batch_size=200,
    num_workers=0,
    dataset=dict(
        type="kd_mm.CIFAR100Retrieval",
        data_root=data_root,
        split="val",
        val_size=2500,  # of 100 classes: 25 each
        pipeline=_test_pipeline,
        test_mode=True,
    ),
    sampler=dict(type="mmengine.DefaultSampler", shuffle=False),
)
test_dataloader = dict(
    batch_size=200,
    num_workers=0,
    dataset=dict(
        type="kd_mm.CIFAR100Retrieval",
        data_root=data_root,
        split="test",
        queries_per_class=25,
        pipeline=_test_pipeline,
        test_mode=True,
    ),
    sampler=dict(type="mmengine.DefaultSampler", shuffle=False),
)
val_evaluator = dict(type="kd_mm.ReIDMetric", camera_rule=False)
test_evaluator = val_evaluator

model = dict(
    type="kd_mm.ReIDModel",
    backbone=dict(type="kd_mm.CIFARResNet", depth=8, widths=(16, 16, 32, 64)),
    neck=dict(type="mmpretrain.GlobalAveragePooling"),
    head=dict(
        type="kd_mm.BNNeckHead",
        num_classes=80,
        in_channels=64,
        loss=dict(type="mmpretrain.LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
        metric_losses=dict(triplet=dict(type="kd_mm.TripletLoss", margin=0.3)),
    ),
)

optim_wrapper = dict(type="mmengine.OptimWrapper", optimizer=dict(type="mmengine.Adam", lr=3e-3, weight_decay=5e-4))
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.05, begin=0, end=75, by_epoch=False),
    dict(type="mmengine.CosineAnnealingLR", T_max=16, by_epoch=True, convert_to_iter_based=True, eta_min=0.0),
]
train_cfg = dict(by_epoch=True, max_epochs=16, val_interval=4)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(
    timer=dict(type="mmengine.IterTimerHook"),
    logger=dict(type="mmengine.LoggerHook", interval=25),
    param_scheduler=dict(type="mmengine.ParamSchedulerHook"),
    checkpoint=dict(
        type="CheckpointHook", backend_args=dict(backend="kd_mm.AtomicLocalBackend"), interval=10, max_keep_ckpts=1
    ),
    sampler_seed=dict(type="mmengine.DistSamplerSeedHook"),
    exact_resume=dict(type="kd_mm.ExactResumeHook"),
)
