# The full official training set, tested on the official test set. For choices set split="train" for training (45,000
# images) and split="val" for validation (the other 5,000).
data_preprocessor = dict(
    num_classes=100,
    mean=[129.3105, 124.1085, 112.404],
    std=[68.2125, 65.4075, 70.4055],
    # The files hold RGB.
    to_rgb=False,
)

train_pipeline = [
    dict(type="RandomCrop", crop_size=32, padding=4),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
test_pipeline = [dict(type="PackInputs")]

train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="kd_mm.CIFAR100",
        _scope_="mmpretrain",
        data_root="data/cifar100",
        split="trainval",
        pipeline=train_pipeline,
    ),
    sampler=dict(type="DefaultSampler", _scope_="mmpretrain", shuffle=True),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="kd_mm.CIFAR100",
        _scope_="mmpretrain",
        data_root="data/cifar100",
        split="test",
        pipeline=test_pipeline,
        test_mode=True,
    ),
    sampler=dict(type="DefaultSampler", _scope_="mmpretrain", shuffle=False),
)
val_evaluator = dict(type="Accuracy", _scope_="mmpretrain", topk=(1, 5))

test_dataloader = val_dataloader
test_evaluator = val_evaluator
