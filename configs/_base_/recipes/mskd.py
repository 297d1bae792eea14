# MSKD, one-to-one (Xu et al., Applied Sciences 12(19):9453, 2022): the student is a multi-exit network, and its exit i
# follows exit i of the teacher. Only the abstract was available: numbers and options are our reading, explained in
# docs/methods/mskd.md. At every exit (1 - a) CE + a KD_T, a = 0.5, T = 4; the last exit is the network's own head.
_base_ = ["./hooks.py"]

mskd = dict(
    exits=dict(type="kd_mm.SepConvExit"),
    teacher_exits=dict(
        mode="auto",
        loss="ce",
        fraction=100 / 240,
        lr=0.05,
        momentum=0.9,
        weight_decay=5e-4,
        milestones=[0.3, 0.6, 0.9],
    ),
    losses=dict(
        aux=dict(type="kd_mm.ExitTaskLoss", loss_weight=0.5),
        srd=dict(type="kd_mm.StageResponseLoss", loss_weight=0.5, temperature=4.0, target="same_stage"),
    ),
    student_loss_weight=0.5,
)
