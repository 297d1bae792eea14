_base_ = [
    "../../_base_/models/cifar_mobilenet_v2.py",
    "../../_base_/datasets/cifar100.py",
    "../../_base_/schedules/sgd_b64_240e.py",
    "../../_base_/default_runtime.py",
]

optim_wrapper = dict(optimizer=dict(lr=0.01))
