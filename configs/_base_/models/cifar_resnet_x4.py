_base_ = "./cifar_classifier.py"

model = dict(backbone=dict(type="kd_mm.CIFARResNet", depth=8, widths=(32, 64, 128, 256)), head=dict(in_channels=256))
