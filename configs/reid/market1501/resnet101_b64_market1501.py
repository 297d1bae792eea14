_base_ = "./resnet101_scratch_b64_market1501.py"

# mmpretrain's checkpoint of resnet/resnet101_8xb32_in1k.py
pretrained = dict(type="Pretrained", checkpoint="checkpoints/imagenet/resnet101.pth", prefix="backbone")

model = dict(backbone=dict(init_cfg=pretrained))
