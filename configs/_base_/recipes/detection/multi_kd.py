# KD averaged over several two-stage teachers, each on the regions that the student samples.
_base_ = ["../multi_kd.py"]

multi_kd = dict(losses=dict(kd=dict(temperature=1.0)))
