# MTKD-SSR for re-identification with its lengths scaled from 120 epochs to the 30 of the quickstart; its weights are
# the recipe's.
_base_ = "../_base_/distillers/reid/mtkd_ssr.py"

mtkd_ssr = dict(
    teacher_exits=dict(epochs=15, milestones=[5, 9]),
    losses=dict(review=dict(schedule=dict(epochs=3))),
)
