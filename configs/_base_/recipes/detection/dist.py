# DIST on the regions that a two-stage student samples, with the weights of classifiers and ImageNet's temperature.
# That is ours: its code for detectors is not public.
_base_ = ["../dist.py"]

dist = dict(losses=dict(dist=dict(temperature=1.0)))
