_base_ = [
    "../../_base_/models/reid_baseline.py",
    "../../_base_/datasets/market1501.py",
    "../../_base_/schedules/reid_adam_b64_120e.py",
    "../../_base_/default_runtime.py",
]

model = dict(backbone=dict(type="mmpretrain.ResNet", depth=18), head=dict(in_channels=512))
