_base_ = "./_faster-rcnn_r50_r18.py"

model = dict(
    teacher=[
        dict(
            config="kd_mm::detection/voc/faster-rcnn_r101_fpn_1x_voc0712.py",
            checkpoint="checkpoints/voc/faster-rcnn_r101.pth",
        ),
        {{_base_.model.teacher}},
    ],
)
