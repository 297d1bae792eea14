_base_ = "./cifar_classifier.py"

model = dict(backbone=dict(type="kd_mm.CIFARMobileNetV2", width=0.5), head=dict(in_channels=1280))
