# Attention transfer (Zagoruyko & Komodakis 2017) on all stages, with the weight of its public code.
_base_ = ["./hooks.py"]

at = dict(losses=dict(attention=dict(type="kd_mm.ATLoss", loss_weight=1000.0, power=2)))
