_base_ = [
    "../../_base_/models/cifar_shufflenet_v1.py",
    "../../_base_/datasets/cifar10.py",
    "../../_base_/schedules/sgd_b64_240e.py",
    "../../_base_/default_runtime.py",
]

model = dict(head=dict(num_classes=10))

optim_wrapper = dict(optimizer=dict(lr=0.01))
