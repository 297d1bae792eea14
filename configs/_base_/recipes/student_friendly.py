# Student-friendly distillation (Yuan, Lang, Quan, 2024): KD whose teacher logits are softened, then simplified by an
# attention that is trained with the student. Only the abstract of the paper was available: every formula, option and
# number is our reading, see kd_mm.LearningSimplifier. Joined to other recipes (mtkd_ssr+student_friendly) only the
# simplifier counts, and their losses learn from what it makes of the teacher.
_base_ = ["./hooks.py"]

student_friendly = dict(
    # At the student's own rate the attention runs away under SGD (docs/comparison.md).
    transform=dict(type="kd_mm.LearningSimplifier", temperature=4.0, gradient_scale=0.01),
    losses=dict(kd=dict(type="kd_mm.KDLoss", temperature=4.0, loss_weight=0.9)),
    student_loss_weight=0.1,
    joined=["transform"],
)
