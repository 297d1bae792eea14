# PKD (Cao et al. 2022) on the stages of a classifier. Public settings are for detectors only (detection/pkd.py): the
# weight here is ours and untuned.
_base_ = ["./hooks.py"]

pkd = dict(
    connectors=dict(type="kd_mm.ConvConnector", policy="always", act="none", norm="none"),
    losses=dict(pkd=dict(type="kd_mm.PKDLoss", loss_weight=1.0)),
)
