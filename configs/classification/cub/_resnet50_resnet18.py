_base_ = "./resnet18_b32_cub.py"

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::classification/cub/resnet50_b32_cub.py",
        checkpoint="checkpoints/cub/resnet50.pth",
    ),
)

# Exits and connectors are as new as the classifier.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"distill.": dict(lr_mult=10)}))
