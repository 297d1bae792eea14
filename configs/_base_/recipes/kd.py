# Hinton's knowledge distillation: the row that every table needs (weights and temperature as is the habit on CIFAR).
_base_ = ["./hooks.py"]

kd = dict(
    losses=dict(kd=dict(type="kd_mm.KDLoss", temperature=4.0, loss_weight=0.9)),
    student_loss_weight=0.1,
)
