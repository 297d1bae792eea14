# MAG (Shao and Chen 2021): the teacher's codes and its logits, with the weights of the public code on bare KD.
_base_ = ["./hooks.py"]

mag = dict(
    losses=dict(
        codes=dict(type="kd_mm.MAGLoss", code_dims=(64, 256), code_temperatures=(2.0, 8.0), loss_weight=1.0),
        kd=dict(type="kd_mm.KDLoss", temperature=4.0, loss_weight=0.8),
    ),
    student_loss_weight=0.2,
)
