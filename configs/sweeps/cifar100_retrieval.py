# Retrieval over held-out classes of CIFAR-100: the student's queries in its own gallery and, asymmetric, in the
# teacher's; the student has the teacher's length of embedding. Train the teacher first
# (see configs/reid/README.md), then run
#     python tools/compare.py configs/sweeps/cifar100_retrieval.py --jobs 2 --work-dir work_dirs/cifar100_retrieval
folder = "kd_mm::reid/cifar100_retrieval/"
teacher = dict(
    teacher=folder + "resnet8_1xb64_cifar100-retrieval.py",
    teacher_checkpoint="checkpoints/cifar100_retrieval/resnet8.pth",
)
student = dict(config=folder + "resnet8-slim-64d_1xb64_cifar100-retrieval.py")
evaluators = [
    dict(type="kd_mm.ReIDMetric", camera_rule=False),
    dict(
        type="kd_mm.ReIDMetric",
        camera_rule=False,
        prefix="asymmetric",
        gallery_config=teacher["teacher"],
        gallery_checkpoint=teacher["teacher_checkpoint"],
    ),
]

cfg_options = dict(val_evaluator=evaluators, test_evaluator=evaluators)
seeds = (0, 1, 2)
metrics = ("reid/mAP", "reid/Rank-1", "asymmetric/reid/mAP", "asymmetric/reid/Rank-1")
rows = [
    dict(name="student", **student),
    *(
        dict(name=recipe, distiller=recipe, **student, **teacher)
        for recipe in ("kd", "rkd", "cosine", "rkd+cosine", "mtkd_ssr", "mtkd_ssr+rkd+cosine")
    ),
    dict(name="teacher_exits", config=teacher["teacher"], seeds=[0], distiller="exits"),
    dict(name="mtkd_ssr with joint exits", distiller="mtkd_ssr", teacher_row="teacher_exits", **student),
]
