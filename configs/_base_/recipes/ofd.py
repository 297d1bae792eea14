# OFD (Heo et al. 2019) on all stages, with the weight of its public code; mdistiller takes 1e-4 on ImageNet.
_base_ = ["./hooks.py"]

ofd = dict(losses=dict(ofd=dict(type="kd_mm.OFDLoss", loss_weight=1e-3)))
