# CA-MKD (Zhang et al., ICASSP 2022) on logits: several teachers, weighted by how sure each is of the label.
_base_ = ["./hooks.py"]

ca_mkd = dict(losses=dict(kd=dict(type="kd_mm.TeamLogitLoss", weights="ca_mkd", temperature=4.0, loss_weight=1.0)))
