_base_ = "./_scenes.py"

# Half the width of the teacher.
model = dict(backbone=dict(base_channels=16), neck=dict(in_channels=[16, 32, 64]))
