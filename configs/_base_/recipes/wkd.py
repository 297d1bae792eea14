# WKD-L and WKD-F (Lv et al., NeurIPS 2024) with the public CIFAR-100 settings of both together
# (ResNet32x4 to ResNet8x4).
_base_ = ["./hooks.py"]

wkd = dict(
    connectors=dict(type="kd_mm.ConvConnector", policy="always", act="auto"),
    losses=dict(
        wkd_logits=dict(
            type="kd_mm.WKDLogitsLoss",
            temperature=8.0,
            gamma=200.0,
            schedule=dict(type="kd_mm.CosineDecay", start=150 / 240),
        ),
        wkd_features=dict(
            type="kd_mm.WKDFeatureLoss",
            loss_weight=0.08,
            mean_weight=8.0,
            schedule=dict(type="kd_mm.CosineDecay", start=150 / 240),
        ),
    ),
)
