# CWD (Shu et al. 2021) on the levels of the neck, as in MMRazor's configs of Faster R-CNN, RetinaNet and GFL.
_base_ = ["../hooks.py"]

cwd = dict(
    stage_source="neck",
    connectors=dict(type="kd_mm.ConvConnector", policy="on_mismatch", act="none"),
    losses=dict(cwd=dict(type="kd_mm.CWDLoss", loss_weight=10.0, temperature=1.0, stages=[1, 2, 3, 4])),
)
