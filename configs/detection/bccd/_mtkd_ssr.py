# MTKD-SSR with the training of the teacher's exits fitted to 205 images; the weights are the recipe's.
_base_ = "../../_base_/recipes/detection/mtkd_ssr.py"

mtkd_ssr = dict(teacher_exits=dict(fraction=2 / 9))
