# Digits in scenes on a CPU, the quickstart's networks.
# Run it with: python tools/compare.py configs/sweeps/scenes.py --jobs 2 --work-dir work_dirs/scenes
student = "kd_mm::quickstart/student_scenes.py"
teacher = "kd_mm::quickstart/teacher_scenes.py"
distilled = dict(config=student, teacher_row="teacher")
joint = dict(config=student, teacher_row="teacher_exits")
cells_off = {f"model.recipe.losses.{loss}.loss_weight": 0 for loss in ("aux", "srd", "review")}
cwd_off = {"model.recipe.losses.cwd.loss_weight": 0}

seeds = (0, 1, 2)
metrics = ("voc07/mAP", "voc12/mAP", "coco/mAP")
rows = [
    dict(name="teacher", config=teacher, seeds=[0]),
    dict(name="student", config=student),
    *(
        dict(name=recipe, distiller=recipe, **distilled)
        for recipe in ("mtkd_ssr", "kd", "pkd", "pkd+kd", "crosskd", "pkd+kd+ld")
    ),
    dict(name="mtkd_ssr, maps by scd alone", distiller="mtkd_ssr", cfg_options=cwd_off, **distilled),
    dict(name="teacher_exits", config=teacher, seeds=[0], distiller="exits"),
    dict(name="mtkd_ssr with joint exits", distiller="mtkd_ssr", **joint),
    dict(name="mtkd_ssr with joint exits, maps by scd alone", distiller="mtkd_ssr", cfg_options=cwd_off, **joint),
    dict(name="mtkd_ssr with joint exits, maps and own alone", distiller="mtkd_ssr", cfg_options=cells_off, **joint),
    dict(name="detection with joint exits", distiller="detection", **joint),
    *(dict(name=f"{recipe} from teacher_exits", distiller=recipe, **joint) for recipe in ("kd", "pkd+kd", "crosskd")),
]
