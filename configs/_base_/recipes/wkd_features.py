# WKD-F (Lv et al., NeurIPS 2024) alone, with the public CIFAR-100 settings (ResNet32x4 to ResNet8x4).
_base_ = ["./hooks.py"]

wkd_features = dict(
    connectors=dict(type="kd_mm.ConvConnector", policy="always", act="auto"),
    losses=dict(
        wkd_features=dict(
            type="kd_mm.WKDFeatureLoss",
            loss_weight=0.08,
            mean_weight=4.0,
            schedule=dict(type="kd_mm.CosineDecay", start=150 / 240),
        ),
    ),
)
