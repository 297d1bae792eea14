# WKD (Lv et al., NeurIPS 2024) for re-identification: an identity has too few images for CKA.
_base_ = ["../wkd.py"]

wkd = dict(losses=dict(wkd_logits=dict(relation="classifier")))
