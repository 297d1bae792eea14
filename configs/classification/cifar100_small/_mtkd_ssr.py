# The lengths of the recipe's 240 epochs, scaled to 20.
_base_ = "../../_base_/distillers/mtkd_ssr.py"

mtkd_ssr = dict(
    teacher_exits=dict(epochs=8, milestones=[4, 7]),
    losses=dict(review=dict(schedule=dict(epochs=2))),
)
