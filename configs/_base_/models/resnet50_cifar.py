_base_ = "./cifar_classifier.py"

# Upstream's ResNet without the first pooling: the benchmark's "ResNet50".
model = dict(backbone=dict(type="ResNet_CIFAR", depth=50), head=dict(in_channels=2048))
