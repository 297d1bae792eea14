# KD on standardised identity logits, beside identity and metric losses at their full weight: 0.1 of them would be 0.1
# of the triplets too.
_base_ = ["../kd_standardized.py"]

kd_standardized = dict(student_loss_weight=1.0)
