# ImageNet, ResNet34 to ResNet18: temperature 2, other weights, no decay.
_base_ = ["../wkd.py"]

wkd = dict(
    losses=dict(
        wkd_logits=dict(temperature=2.0, gamma=10.0, schedule=None),
        wkd_features=dict(loss_weight=1.0, mean_weight=2.0, schedule=None),
    ),
)
