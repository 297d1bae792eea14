# An EfficientNet-Lite0 from ImageNet, fine-tuned on 4,500 CIFAR-10 images at 48 pixels, to a quarter of a ResNet-18
# from nothing. Needs timm; docs/results/cifar10_efficientnet.md makes checkpoints/efficientnet_lite0.pth.
# Run it with: kd-mm compare configs/sweeps/cifar10_efficientnet.py --work-dir work_dirs/cifar10_efficientnet
network = "kd_mm::classification/cifar10_mini/resnet18-quarter_1xb64_cifar10-mini.py"
finetuned = {
    "model.backbone": dict(
        _delete_=True,
        type="TIMMBackbone",
        model_name="tf_efficientnet_lite0",
        checkpoint_path="checkpoints/efficientnet_lite0.pth",
        bn_momentum=0.1,
    ),
    "model.head.in_channels": 1280,
    "optim_wrapper.type": "OptimWrapper",
    "optim_wrapper.optimizer.lr": 0.02,
    "optim_wrapper.optimizer.weight_decay": 1e-4,
    "param_scheduler.T_max": 4,
    "train_cfg.max_epochs": 4,
}
# Strides 4, 8, 16 and 32, as the student's.
stages = {
    "model.stages": dict(
        student=[f"backbone.layer{number}" for number in (1, 2, 3, 4)],
        teacher=[f"backbone.timm_model.blocks.{number}" for number in (1, 2, 4, 6)],
    )
}

exits = {
    "model.stages": dict(student=stages["model.stages"]["teacher"]),
    **{key.replace("model.", "model.student.", 1): value for key, value in finetuned.items()},
}
seeds = (0, 1, 2)
metrics = ("accuracy/top1",)
cfg_options = {
    "data_preprocessor.mean": [127.0] * 3,
    "data_preprocessor.std": [128.0] * 3,
    "optim_wrapper.type": "kd_mm.Bf16OptimWrapper",
    "default_hooks.channels_last.type": "kd_mm.ChannelsLastHook",
    "default_hooks.device_loader.type": "kd_mm.DeviceLoader",
}
student = dict(config=network, teacher_row="teacher")
rows = [
    dict(name="teacher", config=network, seeds=[0], cfg_options=finetuned),
    dict(name="alone", config=network),
    dict(name="kd", distiller="kd", **student),
    dict(name="mtkd_ssr", distiller="mtkd_ssr", cfg_options=stages, **student),
    dict(name="fitnets", distiller="fitnets", cfg_options=stages, **student),
    dict(name="teacher_exits", config=network, seeds=[0], distiller="exits", cfg_options=exits),
    dict(
        name="mtkd_ssr with joint exits",
        config=network,
        distiller="mtkd_ssr",
        cfg_options=stages,
        teacher_row="teacher_exits",
    ),
]
