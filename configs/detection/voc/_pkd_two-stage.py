# The authors' weight for Faster R-CNN.
_base_ = ["../../_base_/recipes/detection/pkd.py"]

pkd = dict(losses=dict(pkd=dict(loss_weight=6.0)))
