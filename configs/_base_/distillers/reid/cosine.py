# Each deployed embedding points where the teacher's does. The weight is our reading. The teacher may know other
# identities.
_base_ = ["../hooks.py"]

cosine = dict(losses=dict(cosine=dict(type="kd_mm.CosineEmbeddingLoss", loss_weight=1.0)))
