# ImageNet: SGD 0.1, weight decay 1e-4, 100 epochs, x0.1 at 30, 60 and 90.
_base_ = "mmpretrain::_base_/schedules/imagenet_bs256.py"
