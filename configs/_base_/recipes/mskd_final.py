# MSKD, plain (Xu et al., Applied Sciences 12(19):9453, 2022): every exit of the student follows the teacher's final
# logits, so the teacher needs no exits. Numbers and options are our reading, as in mskd.py.
_base_ = ["./hooks.py"]

mskd_final = dict(
    exits=dict(type="kd_mm.SepConvExit"),
    losses=dict(
        aux=dict(type="kd_mm.ExitTaskLoss", loss_weight=0.5),
        srd=dict(type="kd_mm.StageResponseLoss", loss_weight=0.5, temperature=4.0, target="final"),
    ),
    student_loss_weight=0.5,
)
