# GPAC (Neural Networks 164, 2023): several teachers; probes choose whose attention guides each stage, and the teacher
# that is near the student's own logits counts most. Every number here is our reading.
_base_ = ["./hooks.py"]

gpac = dict(
    losses=dict(
        instruction=dict(
            type="kd_mm.MultiTeacherKDLoss", weights="softmax", kappa=1.0, temperature=4.0, loss_weight=1.0
        ),
        attention=dict(
            type="kd_mm.GPACAttentionLoss",
            selection="argmax",
            loss_weight=1000.0,
            schedule=dict(type="kd_mm.PiecewiseConstant", levels=(1.0, 0.5, 0.1), bounds=(1 / 3, 2 / 3)),
        ),
    ),
)
