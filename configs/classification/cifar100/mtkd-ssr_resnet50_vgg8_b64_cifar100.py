_base_ = ["./_resnet50_vgg8.py", "../../_base_/recipes/mtkd_ssr.py"]

model = dict(
    recipe={{_base_.mtkd_ssr}},
    # The deepest three of four, as many as in the benchmark's other networks.
    stages=["backbone.layer2", "backbone.layer3", "backbone.layer4"],
)
default_hooks = {{_base_.kd_hooks}}
