# Handwritten digits: the teacher, and everything that the student changes nothing of. 200 training images, so that a
# small network has something to learn from a big one. Choices are made on the validation split; the test split is used
# after the last epoch.
default_scope = "mmpretrain"

data_preprocessor = dict(
    type="mmpretrain.ClsDataPreprocessor", num_classes=10, mean=[77.6] * 3, std=[81.1] * 3, to_rgb=False
)
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    dataset=dict(
        type="kd_mm.Digits",
        split="train",
        samples_per_class=20,
        pipeline=[
            dict(type="mmpretrain.RandomCrop", crop_size=16, padding=2),
            dict(type="mmpretrain.PackInputs"),
        ],
    ),
    sampler=dict(type="mmengine.DefaultSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=200,
    num_workers=0,
    dataset=dict(type="kd_mm.Digits", split="val", pipeline=[dict(type="mmpretrain.PackInputs")], test_mode=True),
    sampler=dict(type="mmengine.DefaultSampler", shuffle=False),
)
test_dataloader = dict(
    batch_size=200,
    num_workers=0,
    dataset=dict(type="kd_mm.Digits", split="test", pipeline=[dict(type="mmpretrain.PackInputs")], test_mode=True),
    sampler=dict(type="mmengine.DefaultSampler", shuffle=False),
)
val_evaluator = dict(type="mmpretrain.Accuracy", topk=(1,))
test_evaluator = val_evaluator

model = dict(
    type="mmpretrain.ImageClassifier",
    backbone=dict(type="kd_mm.CIFARResNet", depth=14, widths=(16, 16, 32, 64)),
    neck=dict(type="mmpretrain.GlobalAveragePooling"),
    head=dict(
        type="mmpretrain.LinearClsHead",
        num_classes=10,
        in_channels=64,
        loss=dict(type="mmpretrain.CrossEntropyLoss", loss_weight=1.0),
        topk=(1,),
    ),
)

optim_wrapper = dict(
    type="mmengine.OptimWrapper",
    optimizer=dict(type="mmengine.SGD", lr=0.05, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = dict(type="mmengine.CosineAnnealingLR", T_max=60, by_epoch=True, eta_min=0.0)
train_cfg = dict(by_epoch=True, max_epochs=60, val_interval=1)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(
    timer=dict(type="mmengine.IterTimerHook"),
    logger=dict(type="mmengine.LoggerHook", interval=10),
    param_scheduler=dict(type="mmengine.ParamSchedulerHook"),
    checkpoint=dict(
        type="CheckpointHook", backend_args=dict(backend="kd_mm.AtomicLocalBackend"), interval=10, max_keep_ckpts=1
    ),
    sampler_seed=dict(type="mmengine.DistSamplerSeedHook"),
)
