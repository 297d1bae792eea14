# BYOT for detectors: the exit of the last stage, which tells the classes that an image holds, teaches those of the
# others. All of it is our reading.
_base_ = ["../byot.py"]

byot = dict(exits=dict(norm="GN"), losses=dict(review=dict(temperature=1.0)))
