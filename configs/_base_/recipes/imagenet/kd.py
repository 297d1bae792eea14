# ImageNet: temperature 1 and equal weights, as mdistiller's benchmark has them.
_base_ = ["../kd.py"]

kd = dict(losses=dict(kd=dict(temperature=1.0, loss_weight=0.5)), student_loss_weight=0.5)
