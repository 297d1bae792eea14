# Re-identification: Adam, a linear warm-up over 10 epochs, x0.1 at 40 and 70 of 120 (bag of tricks, Luo et al. 2019).
optim_wrapper = dict(optimizer=dict(type="Adam", _scope_="mmpretrain", lr=3.5e-4, weight_decay=5e-4))

param_scheduler = [
    dict(
        type="LinearLR",
        _scope_="mmpretrain",
        start_factor=0.01,
        by_epoch=True,
        begin=0,
        end=10,
        convert_to_iter_based=True,
    ),
    dict(type="MultiStepLR", _scope_="mmpretrain", by_epoch=True, milestones=[40, 70], gamma=0.1),
]

train_cfg = dict(by_epoch=True, max_epochs=120, val_interval=20)
val_cfg = dict()
test_cfg = dict()

auto_scale_lr = dict(base_batch_size=64)
