# RKD (Park et al., CVPR 2019) of the deployed embeddings, with the weights of the public code. The teacher may know
# other identities.
_base_ = ["../hooks.py"]

rkd = dict(
    losses=dict(
        rkd_distance=dict(type="kd_mm.DistanceRelationLoss", loss_weight=25.0),
        rkd_angle=dict(type="kd_mm.AngleRelationLoss", loss_weight=50.0),
    ),
)
