# A classifier of globally pooled features; a config adds the backbone and the head's in_channels.
model = dict(
    type="ImageClassifier",
    _scope_="mmpretrain",
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=100,
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
        topk=(1, 5),
    ),
)
