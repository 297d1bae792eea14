# ImageNet: temperature 1, half the weight on the exits' own task loss, a review ramp of 5 of 100 epochs; the teacher's
# exits train for 20.
_base_ = ["../mtkd_ssr.py"]

mtkd_ssr = dict(
    teacher_exits=dict(fraction=20 / 100, lr=0.1, weight_decay=1e-4, milestones=[0.4, 0.7, 0.9]),
    losses=dict(
        aux=dict(loss_weight=0.5),
        scd=dict(loss_weight=6.0),
        srd=dict(loss_weight=1.0, temperature=1.0),
        review=dict(temperature=1.0, schedule=dict(fraction=5 / 100)),
    ),
)
