# What tools/benchmark.py measures by default: MTKD-SSR with the ImageNet options, ResNet-50 to ResNet-18, batch 16,
# 128 pixels. Random weights suffice for a timing, so no checkpoint is named; this config is not for training.
_base_ = ["mmpretrain::resnet/resnet18_8xb32_in1k.py", "../_base_/recipes/imagenet/mtkd_ssr.py"]

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(config="mmpretrain::resnet/resnet50_8xb32_in1k.py", random_weights=True),
    recipe={{_base_.mtkd_ssr}},
    input_size=128,
)
train_dataloader = dict(batch_size=16)
default_hooks = {{_base_.kd_hooks}}
