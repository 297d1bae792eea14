# OFD on the stages of the backbone. It sums over positions, of which a detector has some twenty times as many as an
# ImageNet classifier (1e-4): the weight is ours and untuned.
_base_ = ["../ofd.py"]

ofd = dict(losses=dict(ofd=dict(loss_weight=1e-5)))
