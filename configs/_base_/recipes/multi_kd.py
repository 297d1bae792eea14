# KD averaged over several teachers: the row that methods for several teachers are compared with.
_base_ = ["./hooks.py"]

multi_kd = dict(losses=dict(kd=dict(type="kd_mm.MultiTeacherKDLoss", weights="mean", temperature=4.0, loss_weight=1.0)))
