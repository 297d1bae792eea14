# CUB-200-2011 from ImageNet weights: the new classifier learns ten times faster, as do the exits and
# connectors of a distillation, which are new, too.
optim_wrapper = dict(
    optimizer=dict(type="SGD", _scope_="mmpretrain", lr=0.01, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(custom_keys={"head.": dict(lr_mult=10), "distill.": dict(lr_mult=10)}),
)

param_scheduler = dict(type="MultiStepLR", _scope_="mmpretrain", by_epoch=True, milestones=[60, 90, 110], gamma=0.1)

train_cfg = dict(by_epoch=True, max_epochs=120, val_interval=1)
val_cfg = dict()
test_cfg = dict()

auto_scale_lr = dict(base_batch_size=32)
