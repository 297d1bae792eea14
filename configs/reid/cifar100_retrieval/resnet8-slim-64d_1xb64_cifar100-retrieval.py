_base_ = "./resnet8-slim_1xb64_cifar100-retrieval.py"

# An embedding as long as the teacher's, so that the student's queries can be searched for in the teacher's gallery.
model = dict(
    neck=dict(_delete_=True, type="mmpretrain.LinearNeck", in_channels=32, out_channels=64, gap_dim=2, norm_cfg=None),
    head=dict(in_channels=64),
)
