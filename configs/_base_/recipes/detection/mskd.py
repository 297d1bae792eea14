# MSKD, one-to-one, for detectors: exit i, which predicts the classes of an image, follows exit i of the teacher;
# the detector's own losses at their full weight. All of it is our reading.
_base_ = ["../mskd.py"]

mskd = dict(
    # A device sees two images at a time: too few for the statistics of a batch.
    exits=dict(norm="GN"),
    teacher_exits=dict(fraction=1 / 3, weight_decay=1e-4, milestones=[3 / 4]),
    losses=dict(srd=dict(temperature=1.0)),
    student_loss_weight=1.0,
)
