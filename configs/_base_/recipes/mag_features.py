# MAG beside a loss on features, with the weights of the public code: --distiller mag_features+at (fitnets, sp, vid).
_base_ = ["./hooks.py"]

mag_features = dict(
    losses=dict(
        codes=dict(type="kd_mm.MAGLoss", code_dims=(64, 256), code_temperatures=(2.0, 8.0), loss_weight=1.0),
        kd=dict(type="kd_mm.KDLoss", temperature=4.0, loss_weight=1.0),
    ),
)
