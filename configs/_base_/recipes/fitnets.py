# FitNets (Romero et al. 2015) in one phase, as in the field's benchmark: weight 100, one hint, the second stage.
_base_ = ["./hooks.py"]

fitnets = dict(
    connectors=dict(type="kd_mm.ConvConnector", policy="always", act="auto"),
    losses=dict(hint=dict(type="kd_mm.FitNetsLoss", loss_weight=100.0, stages=[2])),
)
