# CUB-200-2011: a review ramp of 10 epochs; the teacher's exits train for half of the student's schedule.
_base_ = ["../../_base_/distillers/mtkd_ssr.py"]

mtkd_ssr = dict(
    teacher_exits=dict(epochs=60, milestones=[30, 45, 55]),
    losses=dict(review=dict(schedule=dict(epochs=10))),
)
