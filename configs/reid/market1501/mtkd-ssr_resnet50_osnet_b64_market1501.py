_base_ = ["./_resnet50_osnet.py", "../../_base_/recipes/reid/mtkd_ssr.py"]

model = dict(
    # OSNet has strides 4, 8 and 16; the third of the teacher's four stages has stride 16, as has the fourth.
    stages=dict(teacher=["backbone.layer1", "backbone.layer2", "backbone.layer4"]),
    recipe={{_base_.mtkd_ssr}},
)
default_hooks = {{_base_.kd_hooks}}
