_base_ = "./_resnet50_resnet18.py"

model = dict(
    teacher=[
        dict(
            config="kd_mm::reid/market1501/resnet101_b64_market1501.py",
            checkpoint="checkpoints/market1501/resnet101.pth",
        ),
        {{_base_.model.teacher}},
    ],
)
