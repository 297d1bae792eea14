# The teacher, under the student's schedule.
_base_ = "./resnet8x4_1xb256_cifar100-short.py"

model = dict(backbone=dict(depth=32))
