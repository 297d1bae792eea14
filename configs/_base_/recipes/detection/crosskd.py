# CrossKD (Wang et al. 2024) for dense heads of two towers, with its settings for RetinaNet (boxes by GIoU, weight 1) or
# GFL (boxes by KL over bins, weight 4), whichever the head is. ATSS: quality_weight=1.0. FCOS: box="iou",
# cls_weight=0.4, box_weight=0.75, split=2. All but one convolution of each tower remain the student's.
_base_ = ["../hooks.py"]

crosskd = dict(losses=dict(crosskd=dict(type="kd_mm.CrossKDLoss")))
