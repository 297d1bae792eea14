# A comparison that two CPU cores carry: a ResNet-8 of half the width, 50 of the 450 training images a class (5,000 in
# all), 15 epochs. The validation split (50 images a class, cut from the training set) is for choices, the official test
# set for the table.
_base_ = "../cifar100/resnet8_1xb64_cifar100.py"

model = dict(backbone=dict(widths=(8, 8, 16, 32)), head=dict(in_channels=32))
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(split="train", samples_per_class=50))
val_dataloader = dict(batch_size=250, num_workers=0, persistent_workers=False, dataset=dict(split="val"))
test_dataloader = dict(batch_size=250, num_workers=0, persistent_workers=False)
param_scheduler = dict(_delete_=True, type="mmengine.CosineAnnealingLR", T_max=15, by_epoch=True)
train_cfg = dict(max_epochs=15, val_interval=5)
