# BYOT for detectors: the exit of the last stage, which predicts the classes of an image, teaches those of the
# others. All of it is our reading.
_base_ = ["../byot.py"]

byot = dict(exits=dict(norm="GN"), losses=dict(review=dict(temperature=1.0)))
