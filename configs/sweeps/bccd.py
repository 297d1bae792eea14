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
        for recipe in ("mtkd_ssr", "kd", "pkd+kd", "pkd")
    ),
    dict(
        name="mtkd_ssr, scd 2",
        distiller="mtkd_ssr",
        teacher_row="teacher",
        cfg_options={"model.recipe.losses.scd.loss_weight": 2.0},
        **student,
    ),
    *(
        dict(
            name=f"{recipe}, connectors with norm",
            distiller=recipe,
            teacher_row="teacher",
            cfg_options={"model.recipe.connectors.norm": "BN"},
            **student,
        )
        for recipe in ("pkd", "pkd+kd")
    ),
    dict(
        name="mtkd_ssr, positions alike, connectors with norm",
        distiller="mtkd_ssr",
        teacher_row="teacher",
        cfg_options={"model.recipe.losses.scd.object_share": 0, "model.recipe.connectors.norm": "BN"},
        **student,
    ),
    dict(name="teacher_exits", distiller="exits", **teacher),
    dict(name="mtkd_ssr with joint exits", distiller="mtkd_ssr", teacher_row="teacher_exits", **student),
]
