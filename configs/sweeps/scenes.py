# Digits in scenes on a CPU, the quickstart's networks and teacher. Train the teacher first:
#     python tools/train.py configs/quickstart/teacher_scenes.py
# Run it with: python tools/compare.py configs/sweeps/scenes.py --jobs 2 --work-dir work_dirs/scenes
student = dict(config="kd_mm::quickstart/student_scenes.py")
teacher = dict(
    teacher="kd_mm::quickstart/teacher_scenes.py", teacher_checkpoint="work_dirs/teacher_scenes/epoch_14.pth"
)
seeds = (0, 1, 2)
metrics = ("voc07/mAP", "voc12/mAP", "coco/mAP")
rows = [
    dict(name="student", **student),
    *(
        dict(name=recipe, distiller=recipe, **student, **teacher)
        for recipe in ("kd", "pkd", "pkd+kd", "mtkd_ssr", "crosskd", "detection")
    ),
    dict(
        name="mtkd_ssr, maps by scd alone",
        distiller="mtkd_ssr",
        cfg_options={"model.recipe.losses.cwd.loss_weight": 0},
        **student,
        **teacher,
    ),
    dict(name="teacher_exits", config=teacher["teacher"], seeds=[0], distiller="exits"),
    dict(name="mtkd_ssr with joint exits", distiller="mtkd_ssr", teacher_row="teacher_exits", **student),
]
