# MGD (Yang et al. 2022) on all levels of the neck. Squares relative to the teacher's, and so the weight, are our
# reading; the public code is reduction="sum", loss_weight=2e-5, for two-stage detectors 5e-7 with mask_ratio=0.45.
_base_ = ["../hooks.py"]

mgd = dict(
    stage_source="neck",
    losses=dict(mgd=dict(type="kd_mm.MGDLoss", loss_weight=10.0, mask_ratio=0.65)),
)
