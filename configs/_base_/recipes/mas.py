# MAS (Shao and Chen 2021): the teacher's codes and the mean of its three logits, with the weights of the public code
# on bare KD.
_base_ = ["./hooks.py"]

mas = dict(
    losses=dict(
        codes=dict(type="kd_mm.MAGLoss", code_dims=(64, 256), code_temperatures=(2.0, 8.0), loss_weight=1.0),
        stable=dict(type="kd_mm.MASLoss", temperature=4.0, loss_weight=0.8),
    ),
    student_loss_weight=0.2,
)
