_base_ = "./_retrieval.py"

model = dict(backbone=dict(depth=8, widths=(4, 8, 16, 32)), head=dict(in_channels=32))
