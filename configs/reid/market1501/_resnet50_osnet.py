_base_ = "./osnet_b64_market1501.py"

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::reid/market1501/resnet50_b64_market1501.py", checkpoint="checkpoints/market1501/resnet50.pth"
    ),
)
