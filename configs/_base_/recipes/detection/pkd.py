# PKD (Cao et al. 2022) on all levels of the neck, with the weight of its RetinaNet configs on four levels (6 for
# Faster R-CNN).
_base_ = ["../hooks.py"]

pkd = dict(
    stage_source="neck",
    connectors=dict(type="kd_mm.ConvConnector", policy="on_mismatch", act="none", norm="none"),
    losses=dict(pkd=dict(type="kd_mm.PKDLoss", loss_weight=10.0)),
)
