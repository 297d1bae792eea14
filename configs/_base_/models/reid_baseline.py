# The strong baseline of re-identification (bag of tricks, Luo et al. 2019): last stride 1, BNNeck, label smoothing,
# triplets. A config adds the backbone and the head's in_channels.
model = dict(
    type="kd_mm.ReIDModel",
    _scope_="mmpretrain",
    last_stride=1,
    neck=dict(type="mmpretrain.GlobalAveragePooling"),
    head=dict(
        type="kd_mm.BNNeckHead",
        num_classes=751,
        loss=dict(type="mmpretrain.LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
        metric_losses=dict(triplet=dict(type="kd_mm.TripletLoss", margin=0.3)),
    ),
)
