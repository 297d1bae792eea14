_base_ = [
    "../../_base_/models/reid_baseline.py",
    "../../_base_/datasets/market1501.py",
    "../../_base_/schedules/reid_adam_bs64_120e.py",
    "../../_base_/default_runtime.py",
]

# mmpretrain's checkpoint of resnet/resnet18_8xb32_in1k.py
pretrained = dict(type="Pretrained", checkpoint="checkpoints/imagenet/resnet18.pth", prefix="backbone")

model = dict(backbone=dict(type="mmpretrain.ResNet", depth=18, init_cfg=pretrained), head=dict(in_channels=512))
