# CIFAR and Tiny ImageNet: the schedule of the RepDistiller benchmark.
optim_wrapper = dict(optimizer=dict(type="SGD", _scope_="mmpretrain", lr=0.05, momentum=0.9, weight_decay=5e-4))

param_scheduler = dict(type="MultiStepLR", _scope_="mmpretrain", by_epoch=True, milestones=[150, 180, 210], gamma=0.1)

train_cfg = dict(by_epoch=True, max_epochs=240, val_interval=1)
val_cfg = dict()
test_cfg = dict()

auto_scale_lr = dict(base_batch_size=64)
