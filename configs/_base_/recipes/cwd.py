# CWD (Shu et al. 2021) on the stages of a classifier. Public settings are for dense tasks only (detection/cwd.py): the
# weight here is ours and untuned.
_base_ = ["./hooks.py"]

cwd = dict(
    connectors=dict(type="kd_mm.ConvConnector", policy="always", act="auto"),
    losses=dict(cwd=dict(type="kd_mm.CWDLoss", loss_weight=1.0, temperature=1.0)),
)
