# FGD (Yang et al. 2022) on the levels of the neck, with its weights for RetinaNet and GFL. Its configs of Faster R-CNN
# take alpha=5e-5, beta=2.5e-5, gamma=5e-5, lambda_=5e-7 on the levels 1 to 4.
_base_ = ["../hooks.py"]

fgd = dict(
    stage_source="neck",
    losses=dict(fgd=dict(type="kd_mm.FGDLoss", alpha=1e-3, beta=5e-4, gamma=5e-4, lambda_=5e-6)),
)
