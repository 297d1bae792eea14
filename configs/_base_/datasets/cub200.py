data_preprocessor = dict(
    num_classes=200,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    # Images are read as BGR.
    to_rgb=True,
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=256, edge="short"),
    dict(type="RandomResizedCrop", scale=224),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=256, edge="short"),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackInputs"),
]

train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="kd_mm.CUB",
        _scope_="mmpretrain",
        data_root="data/CUB_200_2011",
        split="train",
        pipeline=train_pipeline,
    ),
    sampler=dict(type="DefaultSampler", _scope_="mmpretrain", shuffle=True),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="kd_mm.CUB",
        _scope_="mmpretrain",
        data_root="data/CUB_200_2011",
        split="test",
        pipeline=test_pipeline,
    ),
    sampler=dict(type="DefaultSampler", _scope_="mmpretrain", shuffle=False),
)
val_evaluator = dict(type="Accuracy", _scope_="mmpretrain", topk=(1, 5))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
