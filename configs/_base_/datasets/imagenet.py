_base_ = "mmpretrain::_base_/datasets/imagenet_bs32.py"

train_dataloader = dict(collate_fn=dict(type="default_collate"), dataset=dict(type="kd_mm.ImageNet"))
val_dataloader = dict(collate_fn=dict(type="default_collate"), dataset=dict(type="kd_mm.ImageNet"))
test_dataloader = dict(collate_fn=dict(type="default_collate"), dataset=dict(type="kd_mm.ImageNet"))
