# MTKD-SSR (Gou et al., IJCV 2023) with the CIFAR-100 defaults. The paper's formulas and weights are not public: every
# number and option here is our reading, see the docstrings of the losses.
_base_ = ["./hooks.py"]

mtkd_ssr = dict(
    exits=dict(type="kd_mm.SepConvExit"),
    connectors=dict(type="kd_mm.ConvConnector", policy="always", act="auto"),
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
        aux=dict(type="kd_mm.ExitTaskLoss", loss_weight=1.0),
        scd=dict(type="kd_mm.StageChannelLoss", loss_weight=24.0),
        srd=dict(type="kd_mm.StageResponseLoss", loss_weight=3.0, temperature=4.0),
        review=dict(
            type="kd_mm.CrossStageReviewLoss",
            loss_weight=0.3,
            temperature=4.0,
            schedule=dict(type="kd_mm.LinearRamp", fraction=20 / 240),
        ),
    ),
)
