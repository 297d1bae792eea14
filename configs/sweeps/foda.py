# Runway debris on a CPU, 160 px: a GFL on a ResNet-18 of an eighth of its width, its teacher three times as wide.
# MGD, LD and FGD are in foda_12e.py.
# Run it with: python tools/compare.py configs/sweeps/foda.py --jobs 2 --work-dir work_dirs/foda
student = "kd_mm::detection/foda/gfl_r18w8_foda.py"
teacher = "kd_mm::detection/foda/gfl_r18w24_foda.py"
distilled = dict(config=student, teacher_row="teacher")
joint = dict(config=student, teacher_row="teacher_exits")
cells_off = {f"model.recipe.losses.{loss}.loss_weight": 0 for loss in ("aux", "srd", "review")}

seeds = (0, 1, 2, 3, 4)
metrics = ("voc07/mAP", "voc12/mAP", "coco/mAP")
rows = [
    dict(name="teacher", config=teacher, seeds=[0]),
    dict(name="student", config=student),
    *(
        dict(name=recipe, distiller=recipe, **distilled)
        for recipe in ("mtkd_ssr", "kd", "pkd", "pkd+kd", "crosskd", "cwd")
    ),
    dict(name="teacher_exits", config=teacher, seeds=[0], distiller="exits"),
    dict(name="mtkd_ssr with joint exits", distiller="mtkd_ssr", **joint),
    dict(name="mtkd_ssr with joint exits, maps and own alone", distiller="mtkd_ssr", cfg_options=cells_off, **joint),
    dict(name="detection with joint exits", distiller="detection", **joint),
    *(dict(name=f"{recipe} from teacher_exits", distiller=recipe, **joint) for recipe in ("pkd+kd", "crosskd")),
]
