# CIFAR-100 in minutes on one GPU: 15 epochs of batches of 256 in bfloat16. The validation split (50 images a class, cut
# from the training set) is for choices, the official test set for the table.
_base_ = "../cifar100/resnet8x4_1xb64_cifar100.py"

train_dataloader = dict(batch_size=256, dataset=dict(split="train"))
val_dataloader = dict(batch_size=500, num_workers=1, dataset=dict(split="val"))
test_dataloader = dict(batch_size=500)
optim_wrapper = dict(type="kd_mm.Bf16OptimWrapper", optimizer=dict(lr=0.2, nesterov=True))
param_scheduler = [
    dict(type="mmengine.LinearLR", start_factor=0.1, begin=0, end=1, by_epoch=True, convert_to_iter_based=True),
    dict(type="mmengine.CosineAnnealingLR", T_max=15, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=15, val_interval=5)
auto_scale_lr = dict(base_batch_size=256)
