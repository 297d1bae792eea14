# Hinton's knowledge distillation of a detector's own output: class logits of the student's RoIs, or dense class maps.
_base_ = ["../hooks.py"]

kd = dict(losses=dict(kd=dict(type="kd_mm.DetKDLoss", loss_weight=1.0, temperature=1.0)))
