_base_ = "mmpretrain::_base_/datasets/imagenet_bs32.py"

train_dataloader = dict(dataset=dict(type="kd_mm.ImageNet"))
val_dataloader = dict(dataset=dict(type="kd_mm.ImageNet"))
test_dataloader = dict(dataset=dict(type="kd_mm.ImageNet"))
