_base_ = "./cifar_classifier.py"

model = dict(backbone=dict(type="kd_mm.CIFARResNet", depth=20), head=dict(in_channels=64))
