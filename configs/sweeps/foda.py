# Runway debris on a CPU, 128 px: a GFL on a ResNet-18 of an eighth of its width, its teacher three times as wide.
# Run it with: python tools/compare.py configs/sweeps/foda.py --jobs 2 --work-dir work_dirs/foda
student = "kd_mm::detection/foda/gfl_r18w8_foda.py"
distilled = dict(config=student, teacher_row="teacher")
alike = {"model.recipe.losses.scd.object_share": 0}
cells_off = {f"model.recipe.losses.{loss}.loss_weight": 0 for loss in ("aux", "srd", "review")}
no_review = {"model.recipe.losses.review.loss_weight": 0}

seeds = (0, 1, 2)
metrics = ("voc07/mAP", "voc12/mAP", "coco/mAP")
rows = [
    dict(name="teacher", config="kd_mm::detection/foda/gfl_r18w24_foda.py", seeds=[0]),
    dict(name="student", config=student),
    dict(name="mtkd_ssr", distiller="mtkd_ssr", **distilled),
    *(
        dict(name=f"mtkd_ssr, positions alike{name}", distiller="mtkd_ssr", cfg_options={**alike, **more}, **distilled)
        for name, more in (("", {}), (", without review", no_review), (", scd and own alone", cells_off))
    ),
    dict(name="teacher_exits", config="kd_mm::detection/foda/gfl_r18w24_foda.py", seeds=[0], distiller="exits"),
    dict(
        name="mtkd_ssr, positions alike, with joint exits",
        config=student,
        distiller="mtkd_ssr",
        teacher_row="teacher_exits",
        cfg_options=alike,
    ),
    dict(name="pkd+kd", distiller="pkd+kd", **distilled),
    dict(name="crosskd", distiller="crosskd", **distilled),
    dict(name="pkd", distiller="pkd", **distilled),
    dict(name="pkd+crosskd", distiller="pkd+crosskd", **distilled),
    *(dict(name=recipe, distiller=recipe, **distilled) for recipe in ("kd", "detection", "ld", "mgd", "cwd", "fgd")),
]
