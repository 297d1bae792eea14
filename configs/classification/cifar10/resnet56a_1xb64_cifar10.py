_base_ = "./resnet56_1xb64_cifar10.py"

# The original network, whose shortcuts pad, with the normalisation of akamaster/pytorch_resnet_cifar10's checkpoints.
model = dict(backbone=dict(shortcut="pad"))

data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
