# Tiny ImageNet: the teacher's exits train for a quarter of the student's schedule.
_base_ = ["../mtkd_ssr.py"]

mtkd_ssr = dict(teacher_exits=dict(fraction=1 / 4))
