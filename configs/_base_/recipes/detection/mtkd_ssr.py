# MTKD-SSR (Gou et al., IJCV 2023) for detectors: a channel is compared as the map that it is, on the levels of the
# neck; a stage's logits say which classes are in which cell of a grid; the detector's own class logits are the last
# stage. The paper's formulas and weights are not public: every number and option here is our reading, see the
# docstrings of the losses and docs/methods/mtkd_ssr.md.
_base_ = ["../hooks.py"]

mtkd_ssr = dict(
    stage_source="neck",
    # A device sees two images at a time: too few for the statistics of a batch. Cells of 16 pixels, so that a box
    # covers several of them in a small image, too.
    exits=dict(type="kd_mm.CellExit", norm="GN", grid_stride=16),
    connectors=dict(type="kd_mm.ConvConnector", policy="on_mismatch", act="none", norm="none"),
    teacher_exits=dict(
        mode="auto", loss="ce", fraction=1 / 3, optimizer="AdamW", lr=2e-3, weight_decay=1e-4, milestones=[3 / 4]
    ),
    losses=dict(
        aux=dict(type="kd_mm.ExitTaskLoss", loss_weight=0.5),
        # Half of the weight of each map belongs to the objects, each the same: small ones are lost otherwise.
        scd=dict(type="kd_mm.PKDLoss", loss_weight=6.0, resize="smaller", object_share=0.5),
        # Standardised maps say how a channel varies, this loss where it is largest: many small objects gain by it.
        cwd=dict(type="kd_mm.CWDLoss", loss_weight=1.0, temperature=1.0, resize=True),
        srd=dict(type="kd_mm.CellResponseLoss", loss_weight=1.0, temperature=1.0),
        review=dict(
            type="kd_mm.CellReviewLoss",
            loss_weight=0.3,
            temperature=1.0,
            schedule=dict(type="kd_mm.LinearRamp", fraction=0.1),
        ),
        own=dict(type="kd_mm.DetKDLoss", loss_weight=1.0, temperature=1.0, weighting="quality", optional=True),
    ),
)
