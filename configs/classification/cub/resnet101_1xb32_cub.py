_base_ = [
    "mmpretrain::_base_/models/resnet101.py",
    "../../_base_/datasets/cub200.py",
    "../../_base_/schedules/finetune_bs32_120e.py",
    "../../_base_/default_runtime.py",
]

# mmpretrain's checkpoint of resnet/resnet101_8xb32_in1k.py
pretrained = dict(type="Pretrained", checkpoint="checkpoints/imagenet/resnet101.pth", prefix="backbone")

model = dict(backbone=dict(init_cfg=pretrained), head=dict(num_classes=200))
