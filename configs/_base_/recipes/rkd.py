# RKD (Park et al., CVPR 2019) of what the classifier reads, with the weights of the field's CIFAR-100 benchmark
# (RepDistiller, mdistiller). Re-identification has a recipe of its own under this name (reid/rkd.py).
_base_ = ["./hooks.py"]

rkd = dict(
    losses=dict(
        rkd_distance=dict(type="kd_mm.RKDDistanceLoss", loss_weight=25.0),
        rkd_angle=dict(type="kd_mm.RKDAngleLoss", loss_weight=50.0),
    ),
)
