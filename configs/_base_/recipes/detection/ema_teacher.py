# EMA teacher for detectors: the average teaches the detector's own output, class logits of regions or dense class maps.
# All of it is our reading.
_base_ = ["../ema_teacher.py"]

ema_teacher = dict(losses=dict(ema=dict(type="kd_mm.DetKDLoss", temperature=1.0)))
