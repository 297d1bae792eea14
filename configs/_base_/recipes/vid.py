# VID (Ahn et al. 2019) on all stages, with the settings of RepDistiller.
_base_ = ["./hooks.py"]

vid = dict(
    losses=dict(vid=dict(type="kd_mm.VIDLoss", loss_weight=1.0, initial_variance=5.0, eps=1e-5)),
)
