_base_ = "./mobilenetv2_scratch_b64_market1501.py"

# mmpretrain's checkpoint of mobilenet_v2/mobilenet-v2_8xb32_in1k.py
pretrained = dict(type="Pretrained", checkpoint="checkpoints/imagenet/mobilenetv2.pth", prefix="backbone")

model = dict(backbone=dict(init_cfg=pretrained))
