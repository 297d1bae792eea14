# Runway debris on a CPU, 160 px, students that train four times as long as in foda.py; the teacher was trained with its
# exits.
# Run it with: python tools/compare.py configs/sweeps/foda_12e.py --jobs 2 --work-dir work_dirs/foda_12e
student = dict(config="kd_mm::detection/foda/gfl_r18w8_foda.py", epochs=12)

seeds = (0, 1, 2)
metrics = ("voc07/mAP", "voc12/mAP", "coco/mAP")
rows = [
    dict(name="teacher_exits", config="kd_mm::detection/foda/gfl_r18w24_foda.py", seeds=[0], distiller="exits"),
    dict(name="student", **student),
    *(
        dict(name=recipe, distiller=recipe, teacher_row="teacher_exits", **student)
        for recipe in ("mtkd_ssr", "pkd+kd", "crosskd", "detection")
    ),
]
