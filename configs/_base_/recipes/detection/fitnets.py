# FitNets (Romero et al. 2015) on all levels of the neck. There is no public setting for detectors: the weight is ours
# and untuned.
_base_ = ["../fitnets.py"]

fitnets = dict(stage_source="neck", losses=dict(hint=dict(loss_weight=1.0, stages=None)))
