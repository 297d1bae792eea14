# KD on standardised logits (Sun et al., CVPR 2024) with the CIFAR-100 settings of its public code. Any loss on logits
# takes `standardize=True`, so DKD, DIST and SRD can do the same.
_base_ = ["./hooks.py"]

kd_standardized = dict(
    losses=dict(kd=dict(type="kd_mm.KDLoss", temperature=2.0, loss_weight=9.0, standardize=True)),
    student_loss_weight=0.1,
)
