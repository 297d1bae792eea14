_base_ = "./cifar_classifier.py"

model = dict(backbone=dict(type="kd_mm.CIFARShuffleNetV1"), head=dict(in_channels=960))
