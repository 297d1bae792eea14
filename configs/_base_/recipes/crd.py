# Contrastive representation distillation (Tian et al. 2020) with the settings of its public code. Not the cross-stage
# review of MTKD-SSR.
_base_ = ["./hooks.py"]

crd = dict(
    losses=dict(
        contrast=dict(
            type="kd_mm.CRDLoss",
            loss_weight=0.8,
            num_negatives=16384,
            temperature=0.07,
            momentum=0.5,
            dims=128,
        ),
    ),
)
