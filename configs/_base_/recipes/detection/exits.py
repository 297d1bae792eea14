# Detectors with the exits of detection/mtkd_ssr.py, trained together; see ../exits.py.
_base_ = ["./mtkd_ssr.py"]

exits = dict(exits={{_base_.mtkd_ssr.exits}}, losses=dict(aux={{_base_.mtkd_ssr.losses.aux}}))
