# CA-MKD (Zhang et al., ICASSP 2022): several teachers, weighted by how sure each is of the label, on their logits and
# on their last feature maps, with the weights of the public code. That divides both terms by the number of teachers
# once more, and leaves the one on features out of the first of 240 epochs.
_base_ = ["./hooks.py"]

ca_mkd = dict(
    connectors=dict(type="kd_mm.ConvConnector", policy="always", act="relu"),
    losses=dict(
        kd=dict(type="kd_mm.MultiTeacherKDLoss", weights="ca_mkd", temperature=4.0, loss_weight=1.0),
        hint=dict(
            type="kd_mm.MultiTeacherFeatureLoss",
            weights="ca_mkd",
            loss_weight=50.0,
            schedule=dict(type="kd_mm.PiecewiseConstant", levels=(0.0, 1.0), bounds=(1 / 240,)),
        ),
    ),
)
