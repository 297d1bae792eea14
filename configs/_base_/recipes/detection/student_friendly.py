# Student-friendly distillation of a detector's class logits (neither boxes nor logits by cell are simplified): regions
# attend to those of their own image, on dense heads the best locations of an image to each other. All of it is our
# reading. Joined to other recipes (mtkd_ssr+student_friendly) only the simplifier counts.
_base_ = ["../hooks.py"]

student_friendly = dict(
    transform=dict(type="kd_mm.LearningSimplifier", temperature=1.0),
    losses=dict(kd=dict(type="kd_mm.DetKDLoss", loss_weight=0.5, temperature=1.0)),
    joined=["transform"],
)
