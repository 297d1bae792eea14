# ReviewKD (Chen et al. 2021) on all levels of the neck, with mdistiller's settings for R-CNNs; its weight is 2 where
# the student is a MobileNetV2.
_base_ = ["../reviewkd.py"]

reviewkd = dict(
    stage_source="neck",
    losses=dict(fusion=dict(loss_weight=1.0, teacher_maps="stage", pooled=False, schedule=None)),
)
