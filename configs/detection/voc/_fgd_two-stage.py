# The authors' weights for Faster R-CNN.
_base_ = ["../../_base_/recipes/detection/fgd.py"]

fgd = dict(losses=dict(fgd=dict(alpha=5e-5, beta=2.5e-5, gamma=5e-5, lambda_=5e-7, stages=[1, 2, 3, 4])))
