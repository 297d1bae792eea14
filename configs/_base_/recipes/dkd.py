# DKD (Zhao et al., CVPR 2022) with mdistiller's CIFAR-100 settings; its beta is 6 for VGG and wide ResNets, 2 for
# ResNet56 and ResNet110, and on ImageNet T 1 with beta 0.5 (ResNet34 to ResNet18) or 2 (ResNet50 to MobileNet).
_base_ = ["./hooks.py"]

dkd = dict(
    losses=dict(
        dkd=dict(
            type="kd_mm.DKDLoss",
            loss_weight=1.0,
            temperature=4.0,
            alpha=1.0,
            beta=8.0,
            schedule=dict(type="kd_mm.LinearRamp", fraction=20 / 240),
        )
    )
)
