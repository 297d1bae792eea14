# A teacher that a laptop trains: the 45,000 images that remain beside the validation split, 15 epochs.
_base_ = "../cifar100/resnet20_b64_cifar100.py"

train_dataloader = dict(batch_size=128, dataset=dict(split="train"))
val_dataloader = dict(dataset=dict(split="val"))
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = dict(_delete_=True, type="mmengine.CosineAnnealingLR", T_max=15, by_epoch=True)
train_cfg = dict(max_epochs=15, val_interval=5)
auto_scale_lr = dict(base_batch_size=128)
