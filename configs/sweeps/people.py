# Drawn people, the quickstart's networks, the student's embedding made as long as the teacher's by a linear neck: its
# queries in its own gallery and, asymmetric, in the teacher's. Train the teacher first:
#     python tools/train.py configs/quickstart/teacher_people.py
# Run it with: python tools/compare.py configs/sweeps/people.py --jobs 2 --work-dir work_dirs/people
teacher = dict(
    teacher="kd_mm::quickstart/teacher_people.py", teacher_checkpoint="work_dirs/teacher_people/epoch_60.pth"
)
neck = dict(type="mmpretrain.LinearNeck", in_channels=64, out_channels=128, gap_dim=2, norm_cfg=None)
evaluators = [
    dict(type="kd_mm.ReIDMetric"),
    dict(
        type="kd_mm.ReIDMetric",
        prefix="asymmetric",
        gallery_config=teacher["teacher"],
        gallery_checkpoint=teacher["teacher_checkpoint"],
    ),
]
cfg_options = dict(val_evaluator=evaluators, test_evaluator=evaluators)
plain = {"model.neck": dict(_delete_=True, **neck), "model.head.in_channels": 128}
distilled = {"model.student.neck": dict(_delete_=True, **neck), "model.student.head.in_channels": 128}
seeds = (0, 1, 2)
metrics = ("reid/mAP", "reid/Rank-1", "asymmetric/reid/mAP", "asymmetric/reid/Rank-1")
student = "kd_mm::quickstart/student_people.py"
rows = [
    dict(name="student", config=student, cfg_options=plain),
    *(
        dict(name=recipe, config=student, distiller=recipe, cfg_options=distilled, **teacher)
        for recipe in ("kd", "rkd", "cosine", "rkd+cosine", "mtkd_ssr", "mtkd_ssr+rkd+cosine")
    ),
    dict(name="teacher_exits", config=teacher["teacher"], seeds=[0], distiller="exits"),
    dict(
        name="mtkd_ssr with joint exits",
        distiller="mtkd_ssr",
        teacher_row="teacher_exits",
        config=student,
        cfg_options=distilled,
    ),
]
