# CUB-200-2011: the teacher's exits train for half of the student's schedule.
_base_ = ["../mtkd_ssr.py"]

mtkd_ssr = dict(teacher_exits=dict(fraction=1 / 2, milestones=[1 / 2, 3 / 4, 11 / 12]))
