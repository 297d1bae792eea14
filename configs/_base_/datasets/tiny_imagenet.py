data_preprocessor = dict(
    num_classes=200,
    mean=[122.451, 114.2655, 101.3625],
    std=[70.635, 68.6205, 71.9355],
    # Images are read as BGR.
    to_rgb=True,
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomCrop", crop_size=64, padding=8),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
test_pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]

train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="kd_mm.TinyImageNet",
        _scope_="mmpretrain",
        data_root="data/tiny-imagenet-200",
        split="train",
        pipeline=train_pipeline,
    ),
    sampler=dict(type="DefaultSampler", _scope_="mmpretrain", shuffle=True),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="kd_mm.TinyImageNet",
        _scope_="mmpretrain",
        data_root="data/tiny-imagenet-200",
        split="val",
        pipeline=test_pipeline,
    ),
    sampler=dict(type="DefaultSampler", _scope_="mmpretrain", shuffle=False),
)
val_evaluator = dict(type="Accuracy", _scope_="mmpretrain", topk=(1, 5))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
