# EMA teacher (Mean Teacher, Tarvainen and Valpola, NeurIPS 2017): a network that learns from the moving average of
# itself, without another teacher. The ramp is that of the public code's 5 of 180 epochs; weight, temperature and the
# divergence instead of the squared distance are our reading for training with labels alone.
_base_ = ["./hooks.py"]

ema_teacher = dict(
    teachers=dict(ema=dict(type="kd_mm.EMATeacher", momentum=0.999)),
    losses=dict(
        ema=dict(
            type="kd_mm.KDLoss",
            teacher="ema",
            temperature=4.0,
            loss_weight=1.0,
            schedule=dict(type="kd_mm.LinearRamp", fraction=5 / 180),
        ),
    ),
    joined=["teachers", "losses"],
)
