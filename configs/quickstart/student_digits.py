_base_ = "./teacher_digits.py"

model = dict(backbone=dict(depth=8, widths=(4, 4, 8, 16)), head=dict(in_channels=16))
