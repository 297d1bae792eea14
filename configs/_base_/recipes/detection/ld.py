# LD (Zheng et al. 2022): boxes as distributions over bins (GFL) on objects and around them, else decoded boxes by GIoU
# where the teacher is confident. Means instead of sums over positions, and so the weights, are our reading; the public
# code is reduction="sum", main_weight=0.0147, vlr_weight=0.0037 for heads of 17 bins (0.25 and 0.0625 over 17).
_base_ = ["../hooks.py"]

ld = dict(losses=dict(ld=dict(type="kd_mm.LDLoss", main_weight=1.0, vlr_weight=0.25, temperature=10.0)))
