# A comparison that two CPU cores carry: 100 of the 450 training images a class (10,000 in all), 20 epochs. The
# validation split (50 images a class, cut from the training set) is for choices, the official test set for the table.
_base_ = "../cifar100/resnet8_b64_cifar100.py"

train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(split="train", samples_per_class=100))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(split="val"))
test_dataloader = dict(num_workers=0, persistent_workers=False)
param_scheduler = dict(_delete_=True, type="mmengine.CosineAnnealingLR", T_max=20, by_epoch=True)
train_cfg = dict(max_epochs=20, val_interval=5)
