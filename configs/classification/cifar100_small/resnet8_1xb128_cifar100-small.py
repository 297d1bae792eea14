# A teacher that a laptop trains: the 45,000 images that remain beside the validation split, 12 epochs.
_base_ = "../cifar100/resnet8_1xb64_cifar100.py"

train_dataloader = dict(batch_size=128, num_workers=0, persistent_workers=False, dataset=dict(split="train"))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(split="val"))
test_dataloader = dict(num_workers=0, persistent_workers=False)
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = dict(_delete_=True, type="mmengine.CosineAnnealingLR", T_max=12, by_epoch=True)
train_cfg = dict(max_epochs=12, val_interval=4)
auto_scale_lr = dict(base_batch_size=128)
