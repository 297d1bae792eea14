# MAS beside a loss on features, with the weights of the public code: --distiller mas_features+at (fitnets, sp, vid).
_base_ = ["./hooks.py"]

mas_features = dict(
    losses=dict(
        codes=dict(type="kd_mm.MAGLoss", code_dims=(64, 256), code_temperatures=(2.0, 8.0), loss_weight=1.0),
        stable=dict(type="kd_mm.MASLoss", temperature=4.0, loss_weight=1.0),
    ),
)
