_base_ = ["./_resnet50_resnet18.py", "../../_base_/recipes/reid/student_friendly.py"]

model = dict(recipe={{_base_.student_friendly}})
default_hooks = {{_base_.kd_hooks}}
