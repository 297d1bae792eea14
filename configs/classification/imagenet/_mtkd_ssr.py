# ImageNet: temperature 1, half the weight on the exits' own task loss, a review ramp of 5 epochs.
_base_ = ["../../_base_/distillers/mtkd_ssr.py"]

mtkd_ssr = dict(
    teacher_exits=dict(epochs=20, lr=0.1, weight_decay=1e-4, milestones=[8, 14, 18]),
    losses=dict(
        aux=dict(loss_weight=0.5),
        srd=dict(temperature=1.0),
        review=dict(temperature=1.0, schedule=dict(epochs=5)),
    ),
)
