_base_ = ["./_faster-rcnn_r50_r18.py", "../../_base_/recipes/detection/student_friendly.py"]

model = dict(recipe={{_base_.student_friendly}})
default_hooks = {{_base_.kd_hooks}}
