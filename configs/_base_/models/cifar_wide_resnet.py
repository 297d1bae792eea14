_base_ = "./cifar_classifier.py"

model = dict(backbone=dict(type="kd_mm.CIFARWideResNet", depth=16, widen_factor=2), head=dict(in_channels=128))
