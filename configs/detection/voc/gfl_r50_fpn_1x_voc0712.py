_base_ = ["mmdet::gfl/gfl_r50_fpn_1x_coco.py", "../../_base_/datasets/voc0712.py"]

model = dict(bbox_head=dict(num_classes=20))

# The schedule of the other detectors: the data are repeated three times, so these are 12 epochs.
train_cfg = dict(max_epochs=4)
param_scheduler = [
    dict(type="MultiStepLR", _scope_="mmdet", begin=0, end=4, by_epoch=True, milestones=[3], gamma=0.1),
]

train_dataloader = dict(dataset={{_base_.voc_train}})
val_dataloader = dict(dataset={{_base_.voc_val}})
test_dataloader = dict(dataset={{_base_.voc_test}})
val_evaluator = {{_base_.voc_val_metric}}
test_evaluator = {{_base_.voc_test_metric}}
default_hooks = {{_base_.voc_hooks}}
