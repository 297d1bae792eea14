_base_ = "./cifar_classifier.py"

model = dict(backbone=dict(type="ResNet_CIFAR", depth=18), head=dict(in_channels=512))
