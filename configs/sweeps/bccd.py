# Blood cells on a CPU, 256 x 192: a RetinaNet on ResNet-18 of 40/64 of its width to one of a sixteenth.
# Run it with: python tools/compare.py configs/sweeps/bccd.py --jobs 2 --work-dir work_dirs/bccd
student = dict(config="kd_mm::detection/bccd/retinanet_r18w4_bccd.py", epochs=24)

seeds = (0, 1, 2)
metrics = ("voc07/mAP", "voc12/mAP", "coco/mAP")
teacher = dict(config="kd_mm::detection/bccd/retinanet_r18w40_bccd.py", seeds=[0], epochs=24)
rows = [
    dict(name="teacher", **teacher),
    dict(name="student", **student),
    *(
        dict(name=recipe, distiller=recipe, teacher_row="teacher", **student)
        for recipe in ("mtkd_ssr", "kd", "pkd+kd", "pkd", "pkd+kd+ld", "cwd", "mgd", "ld", "fgd")
    ),
    dict(name="teacher_exits", distiller="exits", **teacher),
    dict(name="mtkd_ssr with joint exits", distiller="mtkd_ssr", teacher_row="teacher_exits", **student),
]
