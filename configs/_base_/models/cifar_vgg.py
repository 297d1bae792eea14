_base_ = "./cifar_classifier.py"

model = dict(backbone=dict(type="kd_mm.CIFARVGG", depth=8), head=dict(in_channels=512))
