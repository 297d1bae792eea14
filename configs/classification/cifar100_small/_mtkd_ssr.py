# The lengths of the recipe's 240 epochs, scaled to 30.
_base_ = "../../_base_/distillers/mtkd_ssr.py"

mtkd_ssr = dict(
    teacher_exits=dict(epochs=12, milestones=[6, 10]),
    losses=dict(review=dict(schedule=dict(epochs=3))),
)
