# Re-identification with the exits of reid/mtkd_ssr.py, trained together; see ../exits.py.
_base_ = ["./mtkd_ssr.py"]

exits = dict(exits={{_base_.mtkd_ssr.exits}}, losses=dict(aux={{_base_.mtkd_ssr.losses.aux}}))
