# An epoch is three passes over Pascal VOC: of the four, the teacher's exits take a third, rounded down.
_base_ = ["../../_base_/distillers/detection/mtkd_ssr.py"]

mtkd_ssr = dict(teacher_exits=dict(epochs=1, milestones=[]))
