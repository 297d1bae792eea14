# Tiny ImageNet: the teacher's exits train for 60 epochs.
_base_ = ["../../_base_/distillers/mtkd_ssr.py"]

mtkd_ssr = dict(teacher_exits=dict(epochs=60, milestones=[18, 36, 54]))
