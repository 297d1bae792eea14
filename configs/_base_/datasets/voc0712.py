# Pascal VOC 07+12 trainval, tested on 07 test, with kd_mm's reader and metric. Every name is its own, so that this file
# stands beside any detector's config among the bases, which keeps its batch and samplers. The scopes are for those who
# inherit with "kd_mm::", which would give its own.
voc_root = "data/VOCdevkit/"

# The sizes of upstream's configs of Pascal VOC.
voc_train_pipeline = [
    dict(type="LoadImageFromFile", _scope_="mmdet"),
    dict(type="LoadAnnotations", _scope_="mmdet", with_bbox=True),
    dict(type="Resize", _scope_="mmdet", scale=(1000, 600), keep_ratio=True),
    dict(type="RandomFlip", _scope_="mmdet", prob=0.5),
    dict(type="PackDetInputs", _scope_="mmdet"),
]
voc_test_pipeline = [
    dict(type="LoadImageFromFile", _scope_="mmdet"),
    dict(type="Resize", _scope_="mmdet", scale=(1000, 600), keep_ratio=True),
    # After the resizing: the ground truth stays as it is.
    dict(type="LoadAnnotations", _scope_="mmdet", with_bbox=True),
    dict(
        type="PackDetInputs",
        _scope_="mmdet",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]

voc_train = dict(
    _delete_=True,
    type="RepeatDataset",
    _scope_="mmdet",
    times=3,
    dataset=dict(
        type="ConcatDataset",
        ignore_keys=["dataset_type"],
        datasets=[
            dict(
                type="kd_mm.VOCDataset",
                data_root=voc_root,
                ann_file=f"VOC{year}/ImageSets/Main/trainval.txt",
                data_prefix=dict(sub_data_root=f"VOC{year}/"),
                filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=32),
                pipeline=voc_train_pipeline,
            )
            for year in (2007, 2012)
        ],
    ),
)
voc_val = dict(
    _delete_=True,
    type="kd_mm.VOCDataset",
    _scope_="mmdet",
    data_root=voc_root,
    ann_file="VOC2007/ImageSets/Main/test.txt",
    data_prefix=dict(sub_data_root="VOC2007/"),
    test_mode=True,
    pipeline=voc_test_pipeline,
)
voc_val_metric = dict(_delete_=True, type="kd_mm.DetectionMetric")
# Copies, because the engine removes `_delete_` from what it has merged.
voc_test, voc_test_metric = voc_val.copy(), voc_val_metric.copy()
voc_hooks = dict(
    checkpoint=dict(
        type="CheckpointHook",
        backend_args=dict(backend="kd_mm.AtomicLocalBackend"),
        max_keep_ckpts=2,
        save_best="voc07/mAP",
        rule="greater",
    ),
    exact_resume=dict(type="kd_mm.ExactResumeHook"),
)
