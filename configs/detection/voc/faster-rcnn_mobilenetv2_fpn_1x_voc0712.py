_base_ = "./faster-rcnn_r50_fpn_1x_voc0712.py"

# Strides 4, 8, 16, 32. As in the ResNets, the statistics of the norms stay as they were on ImageNet.
model = dict(
    backbone=dict(
        _delete_=True,
        type="MobileNetV2",
        out_indices=(1, 2, 4, 7),
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://mmdet/mobilenet_v2"),
    ),
    neck=dict(in_channels=[24, 32, 96, 1280]),
)
