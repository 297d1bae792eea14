# Hinton's knowledge distillation of the identity logits, beside identity and metric losses at their full weight: 0.1 of
# them, as is the habit on CIFAR, would be 0.1 of the triplets too. Weight and temperature are those of MTKD-SSR's srd.
_base_ = ["../hooks.py"]

kd = dict(losses=dict(kd=dict(type="kd_mm.KDLoss", temperature=4.0, loss_weight=1.0)))
