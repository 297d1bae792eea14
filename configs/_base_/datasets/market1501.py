data_preprocessor = dict(
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    # Images are read as BGR.
    to_rgb=True,
)

train_pipeline = [
    dict(type="LoadImageFromFile", _scope_="mmpretrain"),
    dict(type="Resize", _scope_="mmpretrain", scale=(128, 256)),
    dict(type="RandomFlip", _scope_="mmpretrain", prob=0.5, direction="horizontal"),
    dict(type="RandomCrop", _scope_="mmpretrain", crop_size=(256, 128), padding=10),
    # Filled with the mean colour, in the channel order of the file reader.
    dict(type="RandomErasing", _scope_="mmpretrain", erase_prob=0.5, fill_color=(103.53, 116.28, 123.675)),
    dict(type="PackInputs", _scope_="mmpretrain"),
]
test_pipeline = [
    dict(type="LoadImageFromFile", _scope_="mmpretrain"),
    dict(type="Resize", _scope_="mmpretrain", scale=(128, 256)),
    dict(type="PackInputs", _scope_="mmpretrain"),
]

train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="kd_mm.Market1501",
        _scope_="mmpretrain",
        data_root="data/Market-1501-v15.09.15",
        split="train",
        pipeline=train_pipeline,
    ),
    # batch_size is num_identities * num_images.
    sampler=dict(type="kd_mm.IdentitySampler", num_identities=16, num_images=4),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="kd_mm.Market1501",
        _scope_="mmpretrain",
        data_root="data/Market-1501-v15.09.15",
        split="test",
        pipeline=test_pipeline,
    ),
    sampler=dict(type="DefaultSampler", _scope_="mmpretrain", shuffle=False),
)
val_evaluator = dict(type="kd_mm.ReIDMetric")

test_dataloader = val_dataloader
test_evaluator = val_evaluator
