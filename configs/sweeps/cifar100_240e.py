# CIFAR-100 under the literature's protocol: ResNet-32x4 to ResNet-8x4, 240 epochs, three seeds. The validation data are
# the test data, as in most papers; to choose the best epoch on images kept from the training set instead, add
# --cfg-options train_dataloader.dataset.split=train val_dataloader.dataset.split=val.
# Run it with: python tools/compare.py configs/sweeps/cifar100_240e.py --devices cuda:0 --jobs 3
# --work-dir work_dirs/cifar100_240e
folder = "kd_mm::classification/cifar100"
teacher = f"{folder}/resnet32x4_1xb64_cifar100.py"
student = f"{folder}/resnet8x4_1xb64_cifar100.py"

seeds = (0, 1, 2)
metrics = ("accuracy/top1",)
cfg_options = {
    "optim_wrapper.type": "kd_mm.Bf16OptimWrapper",
    "default_hooks.device_loader.type": "kd_mm.DeviceLoader",
    "val_dataloader.batch_size": 500,
    "test_dataloader.batch_size": 500,
}
rows = [
    dict(name="teacher", config=teacher, seeds=[0]),
    dict(name="student", config=student),
    dict(name="kd", config=student, distiller="kd", teacher_row="teacher"),
    dict(name="dkd", config=student, distiller="dkd", teacher_row="teacher"),
    dict(name="reviewkd", config=student, distiller="reviewkd", teacher_row="teacher"),
    dict(name="wkd", config=student, distiller="wkd", teacher_row="teacher"),
    dict(name="mtkd_ssr", config=student, distiller="mtkd_ssr", teacher_row="teacher"),
    dict(name="teacher_exits", config=teacher, seeds=[0], distiller="exits"),  # trained together with its exits
    dict(name="mtkd_ssr_joint_exits", config=student, distiller="mtkd_ssr", teacher_row="teacher_exits"),
]
