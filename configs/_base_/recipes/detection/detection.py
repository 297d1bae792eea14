# MTKD-SSR's stages and CrossKD in one recipe: the student's features also run through the last layers of the teacher's
# head, whose predictions of classes and boxes they follow. Where they do not fit that head, a line says so and MTKD-SSR
# remains. All terms have the options of their own recipes.
_base_ = ["../hooks.py"]

detection = dict(
    stage_source="neck",
    exits=dict(type="kd_mm.CellExit", norm="GN", grid_stride=16),
    connectors=dict(type="kd_mm.ConvConnector", policy="on_mismatch", act="none", norm="none"),
    teacher_exits=dict(
        mode="auto", loss="ce", fraction=1 / 3, optimizer="AdamW", lr=2e-3, weight_decay=1e-4, milestones=[3 / 4]
    ),
    losses=dict(
        aux=dict(type="kd_mm.ExitTaskLoss", loss_weight=0.5),
        scd=dict(type="kd_mm.PKDLoss", loss_weight=6.0, resize="smaller", object_share=0.5),
        cwd=dict(type="kd_mm.CWDLoss", loss_weight=1.0, temperature=1.0, resize=True),
        srd=dict(type="kd_mm.CellResponseLoss", loss_weight=1.0, temperature=1.0),
        review=dict(
            type="kd_mm.CellReviewLoss",
            loss_weight=0.3,
            temperature=1.0,
            schedule=dict(type="kd_mm.LinearRamp", fraction=0.1),
        ),
        own=dict(type="kd_mm.DetKDLoss", loss_weight=1.0, temperature=1.0, weighting="quality", optional=True),
        crosskd=dict(type="kd_mm.CrossKDLoss", optional=True),
    ),
)
