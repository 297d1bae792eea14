# SP, similarity preserving (Tung and Mori, ICCV 2019), with RepDistiller's weight, on the last feature map.
_base_ = ["./hooks.py"]

sp = dict(losses=dict(sp=dict(type="kd_mm.SPLoss", loss_weight=3000.0)))
