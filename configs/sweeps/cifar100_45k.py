# CIFAR-100 on one CPU core, as cifar100_small.py, on all 45,000 images beside the validation split: ResNet-14 of 8
# epochs to ResNet-8 of 4 epochs.
# Run it with: kd-mm compare configs/sweeps/cifar100_45k.py --work-dir work_dirs/cifar100_45k
_base_ = "./cifar100_small.py"

network = "kd_mm::classification/cifar100_small/resnet8_1xb128_cifar100-small.py"
cfg_options = {
    "train_dataloader.dataset.samples_per_class": None,
    "param_scheduler.T_max": 4,
    "train_cfg.max_epochs": 4,
    "train_cfg.val_interval": 2,
}
longer = {"param_scheduler.T_max": 8, "train_cfg.max_epochs": 8}
student = dict(config=network, teacher_row="teacher")
rows = [
    dict(name="teacher", config=network, seeds=[0], cfg_options={"model.backbone.depth": 14, **longer}),
    dict(name="alone", config=network),
    *(
        dict(name=recipe, distiller=recipe, **student)
        for recipe in ("kd", "mtkd_ssr", "wkd", "dkd", "dist", "ofd", "reviewkd")
    ),
    dict(
        name="mtkd_ssr without review",
        distiller="mtkd_ssr",
        cfg_options={"model.recipe.losses.review.loss_weight": 0.0},
        **student,
    ),
    dict(
        name="teacher_exits",
        config=network,
        seeds=[0],
        distiller="exits",
        cfg_options={"model.student.backbone.depth": 14, **longer},
    ),
    dict(name="mtkd_ssr with joint exits", config=network, distiller="mtkd_ssr", teacher_row="teacher_exits"),
]
