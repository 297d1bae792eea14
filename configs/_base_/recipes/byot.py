# BYOT, be your own teacher (Zhang et al., ICCV 2019, arXiv 1905.08094): a network that teaches its own exits, without a
# teacher. Weights 0.7, 0.3 and 0.03 and temperature 3 as in MMRazor's byot; the head's own loss has weight 1.
_base_ = ["./hooks.py"]

byot = dict(
    exits=dict(type="kd_mm.SepConvExit", hidden=None),  # the hint needs the last stage's width
    losses=dict(
        aux=dict(type="kd_mm.ExitTaskLoss", loss_weight=0.7),
        review=dict(type="kd_mm.CrossStageReviewLoss", pairs="to_final", temperature=3.0, loss_weight=0.3),
        exit_hint=dict(type="kd_mm.BYOTHintLoss", loss_weight=0.03),
    ),
)
