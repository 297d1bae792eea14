# The pairs of networks of RepDistiller's CIFAR-100 tables: each teacher, each student alone, under KD and MTKD-SSR.
# Run it with: python tools/compare.py configs/sweeps/cifar100_pairs.py --work-dir work_dirs/cifar100_pairs
# A teacher is trained once, by the row of its name. Other methods: change `methods`.
pairs = [
    ("wrn-40-2", "wrn-16-2"),
    ("wrn-40-2", "wrn-40-1"),
    ("resnet56", "resnet20"),
    ("resnet110", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
    ("vgg13", "mobilenetv2"),
    ("resnet50", "mobilenetv2"),
    ("resnet50", "vgg8"),
    ("resnet32x4", "shufflenetv1"),
    ("resnet32x4", "shufflenetv2"),
    ("wrn-40-2", "shufflenetv1"),
]
methods = ["kd", "mtkd_ssr"]
path = "kd_mm::classification/cifar100/{}_1xb64_cifar100.py"
# Of networks with four stages the deepest three, as many as the others have.
four_stages = {"model.stages": ["backbone.layer2", "backbone.layer3", "backbone.layer4"]}

seeds = (0, 1, 2)
metrics = ("accuracy/top1",)
rows = [dict(name=name, config=path.format(name), seeds=[0]) for name in sorted({teacher for teacher, _ in pairs})]
rows += [dict(name=name, config=path.format(name)) for name in sorted({student for _, student in pairs})]
rows += [
    dict(
        name=f"{method}_{teacher}_{student}",
        config=path.format(student),
        distiller=method,
        teacher_row=teacher,
        cfg_options=four_stages if method == "mtkd_ssr" and student in ("vgg8", "mobilenetv2") else {},
    )
    for teacher, student in pairs
    for method in methods
]
