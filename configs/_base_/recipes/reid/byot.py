# BYOT for re-identification: the exits are those of a BNNeck head. All of it is our reading.
_base_ = ["../byot.py"]

byot = dict(exits=dict(type="kd_mm.BNNeckExit"))
