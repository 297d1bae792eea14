# MTKD-SSR for re-identification with its lengths scaled from 120 epochs to 8; its weights are the recipe's.
_base_ = "../../_base_/distillers/reid/mtkd_ssr.py"

mtkd_ssr = dict(
    teacher_exits=dict(epochs=4, milestones=[2, 3]),
    losses=dict(review=dict(schedule=dict(epochs=1))),
)
