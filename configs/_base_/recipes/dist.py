# DIST (Huang et al., NeurIPS 2022) with the CIFAR-100 settings of its public code; on ImageNet it has temperature 1.
_base_ = ["./hooks.py"]

dist = dict(losses=dict(dist=dict(type="kd_mm.DISTLoss", loss_weight=2.0, temperature=4.0)))
