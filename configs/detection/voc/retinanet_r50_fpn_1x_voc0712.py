_base_ = ["mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py", "../../_base_/datasets/voc0712.py"]

train_dataloader = dict(dataset={{_base_.voc_train}})
val_dataloader = dict(dataset={{_base_.voc_val}})
test_dataloader = dict(dataset={{_base_.voc_test}})
val_evaluator = {{_base_.voc_val_metric}}
test_evaluator = {{_base_.voc_test_metric}}
default_hooks = {{_base_.voc_hooks}}
