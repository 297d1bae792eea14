# Runway debris on a CPU, 160 px, students that train four times as long as in foda.py; the teacher was trained with its
# exits.
# Run it with: python tools/compare.py configs/sweeps/foda_12e.py --jobs 2 --work-dir work_dirs/foda_12e
losses, fading = "model.recipe.losses", dict(type="kd_mm.CosineDecay")
fading_maps = {f"{losses}.scd.schedule": fading, f"{losses}.cwd.schedule": fading}
fading_all = {**fading_maps, f"{losses}.aux.schedule": fading, f"{losses}.srd.schedule": fading}
quarter = {f"{losses}.aux.loss_weight": 0.125, f"{losses}.srd.loss_weight": 0.25, f"{losses}.review.loss_weight": 0.075}
cells_off = {f"{losses}.{name}.loss_weight": 0 for name in ("aux", "srd", "review")}
maps_off = {f"{losses}.{name}.loss_weight": 0 for name in ("scd", "cwd", "own")}
student = dict(config="kd_mm::detection/foda/gfl_r18w8_foda.py", epochs=12)

seeds = (0, 1, 2)
metrics = ("voc07/mAP", "voc12/mAP", "coco/mAP")
rows = [
    dict(name="teacher_exits", config="kd_mm::detection/foda/gfl_r18w24_foda.py", seeds=[0], distiller="exits"),
    dict(name="student", **student),
    *(
        dict(name=recipe, distiller=recipe, teacher_row="teacher_exits", **student)
        for recipe in ("mtkd_ssr", "pkd+kd", "crosskd", "detection")
        + ("ld", "mgd", "fgd", "cwd", "kd", "pkd+kd+ld", "pkd")
    ),
    dict(
        name="mtkd_ssr, fading maps",
        distiller="mtkd_ssr",
        teacher_row="teacher_exits",
        cfg_options=fading_maps,
        **student,
    ),
    # One seed each: what was tried to let MTKD-SSR end as high as CrossKD.
    *(
        dict(name=name, distiller=recipe, teacher_row="teacher_exits", cfg_options=changes, seeds=[0], **student)
        for name, recipe, changes in (
            ("mtkd_ssr, all but own fading", "mtkd_ssr", fading_all),
            ("mtkd_ssr, exits a quarter, fading maps", "mtkd_ssr", {**quarter, **fading_maps}),
            ("detection, fading maps", "detection", fading_maps),
            ("detection without exits", "detection", cells_off),
            ("crosskd and exits", "detection", maps_off),
        )
    ),
]
