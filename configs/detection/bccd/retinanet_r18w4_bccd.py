# The student: ResNet-18 a sixteenth as wide, a narrow pyramid, a head of one layer.
_base_ = "./_bccd.py"
