# Maps of the neck (PKD), class logits (KD) and boxes (LD) in one recipe. Each term has the weight of its own recipe;
# that they are added up as they are is our reading. Where logits or boxes of two detectors cannot be compared, a line
# says so and the maps remain.
_base_ = ["../hooks.py"]

detection = dict(
    stage_source="neck",
    connectors=dict(type="kd_mm.ConvConnector", policy="on_mismatch", act="none", norm="none"),
    losses=dict(
        pkd=dict(type="kd_mm.PKDLoss", loss_weight=10.0),
        kd=dict(type="kd_mm.DetKDLoss", loss_weight=1.0, temperature=1.0, optional=True),
        ld=dict(type="kd_mm.LDLoss", main_weight=1.0, vlr_weight=0.25, temperature=10.0, optional=True),
    ),
)
