# The first reading of MTKD-SSR for detectors: pooled channels, and exits for the image, whose logits say which classes
# it holds. mtkd_ssr has replaced it: see docs/methods/mtkd_ssr.md.
_base_ = ["../hooks.py"]

mtkd_ssr_images = dict(
    # A device sees two images at a time: too few for the statistics of a batch.
    exits=dict(type="kd_mm.SepConvExit", norm="GN"),
    connectors=dict(type="kd_mm.ConvConnector", policy="always", act="auto"),
    teacher_exits=dict(
        mode="auto", loss="ce", fraction=1 / 3, lr=0.05, momentum=0.9, weight_decay=1e-4, milestones=[3 / 4]
    ),
    losses=dict(
        aux=dict(type="kd_mm.ExitTaskLoss", loss_weight=0.5),
        scd=dict(type="kd_mm.StageChannelLoss", loss_weight=3.0, grid=False),
        srd=dict(type="kd_mm.StageResponseLoss", loss_weight=0.5, temperature=1.0),
        review=dict(
            type="kd_mm.CrossStageReviewLoss",
            loss_weight=0.15,
            temperature=1.0,
            schedule=dict(type="kd_mm.LinearRamp", fraction=0.1),
        ),
    ),
)
