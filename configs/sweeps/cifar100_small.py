# CIFAR-100 on one CPU core: ResNet-14 to ResNet-8 on images averaged down to 16 pixels. Teacher and student train
# on the same 10,000 images, 100 a class of the 45,000 beside the validation split, for 30 epochs and 6.
# Run it with: kd-mm compare configs/sweeps/cifar100_small.py --work-dir work_dirs/cifar100_small
network = "kd_mm::classification/cifar100_small/resnet8_1xb128_cifar100-small.py"
half_size = dict(type="Resize", scale=(16, 16), interpolation="area")
test_pipeline = [half_size, dict(type="PackInputs")]
teacher_options = {"model.backbone.depth": 14, "train_cfg.max_epochs": 30, "param_scheduler.T_max": 30}

seeds = (0, 1, 2)
metrics = ("accuracy/top1",)
cfg_options = {
    "train_dataloader.dataset.samples_per_class": 100,
    "train_dataloader.dataset.pipeline": [
        half_size,
        dict(type="RandomCrop", crop_size=16, padding=2),
        dict(type="RandomFlip", prob=0.5, direction="horizontal"),
        dict(type="PackInputs"),
    ],
    "val_dataloader.dataset.pipeline": test_pipeline,
    "val_dataloader.batch_size": 500,
    "test_dataloader.dataset.pipeline": test_pipeline,
    "test_dataloader.batch_size": 500,
    "optim_wrapper.type": "kd_mm.Bf16OptimWrapper",
    "default_hooks.channels_last.type": "kd_mm.ChannelsLastHook",
    "default_hooks.device_loader.type": "kd_mm.DeviceLoader",
    "param_scheduler.T_max": 6,
    "train_cfg.max_epochs": 6,
    "train_cfg.val_interval": 3,
}
student = dict(config=network, teacher_row="teacher")
losses = "model.recipe.losses"
no_review = {f"{losses}.review.loss_weight": 0.0}
former = {
    f"{losses}.scd.loss_weight": 6.0,
    f"{losses}.srd.loss_weight": 1.0,
    "model.recipe.teacher_exits.min_epochs": 1,
}
rows = [
    dict(name="teacher", config=network, seeds=[0], cfg_options=teacher_options),
    dict(name="alone", config=network),
    dict(name="kd", distiller="kd", **student),
    dict(name="mtkd_ssr", distiller="mtkd_ssr", **student),
    dict(name="mtkd_ssr without review", distiller="mtkd_ssr", cfg_options=no_review, **student),
    dict(name="ofd", distiller="ofd", **student),
    dict(name="dkd", distiller="dkd", **student),
    dict(name="dist", distiller="dist", **student),
    dict(name="wkd", distiller="wkd", **student),
    dict(name="mtkd_ssr, former weights", distiller="mtkd_ssr", cfg_options=former, **student),
    dict(
        name="mtkd_ssr, former weights without review",
        distiller="mtkd_ssr",
        cfg_options={**former, **no_review},
        **student,
    ),
    dict(
        name="teacher_exits",
        config=network,
        seeds=[0],
        distiller="exits",
        cfg_options={
            "model.student.backbone.depth": 14,
            "train_cfg.max_epochs": 30,
            "param_scheduler.T_max": 30,
        },
    ),
    dict(name="mtkd_ssr with joint exits", config=network, distiller="mtkd_ssr", teacher_row="teacher_exits"),
    dict(name="reviewkd", distiller="reviewkd", **student),
]
