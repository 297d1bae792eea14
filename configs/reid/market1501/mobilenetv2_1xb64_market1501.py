_base_ = [
    "../../_base_/models/reid_baseline.py",
    "../../_base_/datasets/market1501.py",
    "../../_base_/schedules/reid_adam_bs64_120e.py",
    "../../_base_/default_runtime.py",
]

# mmpretrain's checkpoint of mobilenet_v2/mobilenet-v2_8xb32_in1k.py
pretrained = dict(type="Pretrained", checkpoint="checkpoints/imagenet/mobilenetv2.pth", prefix="backbone")

model = dict(backbone=dict(type="mmpretrain.MobileNetV2", init_cfg=pretrained), head=dict(in_channels=1280))
