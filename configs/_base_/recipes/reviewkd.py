# ReviewKD (Chen et al. 2021) with the weight of ResNet32x4 to ResNet8x4 on CIFAR-100. Its public weights by pair: 0.6
# (ResNet56 to ResNet20), 1 (ResNet110 to ResNet32), 8 (ResNet32x4 to ShuffleNetV2); on ImageNet 1, ramp of 1 epoch.
_base_ = ["./hooks.py"]

reviewkd = dict(
    losses=dict(
        fusion=dict(
            type="kd_mm.ReviewKDLoss",
            loss_weight=5.0,
            teacher_maps="auto",
            pooled=True,
            schedule=dict(type="kd_mm.LinearRamp", fraction=20 / 240),
        ),
    ),
)
