_base_ = "./osnet_scratch_b64_market1501.py"

# deep-person-reid's osnet_x1_0_imagenet.pth, converted: tools/convert_checkpoint.py with _base_/models/osnet.py
checkpoint = "checkpoints/imagenet/osnet.pth"

model = dict(
    backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint, prefix="backbone")),
    neck=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint, prefix="neck")),
)
