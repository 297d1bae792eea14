# DKD (Zhao et al., CVPR 2022) on the regions that a two-stage student samples, with mdistiller's settings for R-CNNs.
_base_ = ["../dkd.py"]

dkd = dict(losses=dict(dkd=dict(temperature=1.0, beta=0.25, schedule=None)))
