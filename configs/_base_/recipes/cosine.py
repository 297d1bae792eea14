# Each embedding points where the teacher's does: what the classifier reads, in re-identification what is deployed. The
# weight is our reading. The teacher may know other classes or identities.
_base_ = ["./hooks.py"]

cosine = dict(losses=dict(cosine=dict(type="kd_mm.CosineLoss", loss_weight=1.0)))
