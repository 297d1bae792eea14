# CWD (Shu et al. 2021) on all levels of the neck; weight and temperature as in MMRazor's configs of Faster R-CNN,
# RetinaNet and GFL, which take four levels.
_base_ = ["../hooks.py"]

cwd = dict(
    stage_source="neck",
    connectors=dict(type="kd_mm.ConvConnector", policy="on_mismatch", act="none"),
    losses=dict(cwd=dict(type="kd_mm.CWDLoss", loss_weight=10.0, temperature=1.0)),
)
