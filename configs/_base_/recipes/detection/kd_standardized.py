# KD on standardised class logits of the regions that a two-stage student samples. Our transfer: public settings are for
# classifiers, with a weight nine times that of KD. Dense heads have sigmoids, whose level means something.
_base_ = ["../kd_standardized.py"]

kd_standardized = dict(student_loss_weight=1.0)
