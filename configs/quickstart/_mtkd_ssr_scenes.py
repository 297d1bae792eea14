# MTKD-SSR for detectors, fitted to 400 small scenes: exits answer for regions, because which digits are somewhere in a
# scene cannot be learnt from so few; they weigh less on a small student; and the detector's own answer takes part.
_base_ = "../_base_/recipes/detection/mtkd_ssr.py"

mtkd_ssr = dict(
    exits=dict(type="kd_mm.RoIExit"),
    losses=dict(
        aux=dict(loss_weight=0.1),
        answer=dict(type="kd_mm.DetKDLoss", loss_weight=1.0, temperature=1.0),
    ),
)
