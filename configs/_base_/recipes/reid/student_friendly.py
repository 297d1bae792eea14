# Student-friendly distillation of the identity logits. A batch holds several views of a person, so the simplifier can
# average the teacher's opinion over views, and what it does depends on the sampler. All of it is our reading.
_base_ = ["../hooks.py"]

student_friendly = dict(
    transform=dict(type="kd_mm.LearningSimplifier", temperature=4.0),
    losses=dict(kd=dict(type="kd_mm.KDLoss", temperature=4.0, loss_weight=1.0)),
    joined=["transform"],
)
