# Blood cells on a CPU, 256 x 192: ResNet-18 to a sixteenth of its width; MTKD-SSR with exits for cells, for the image
# and for regions.
# Run it with: python tools/compare.py configs/sweeps/bccd.py --jobs 2 --work-dir work_dirs/bccd
student = "kd_mm::detection/bccd/retinanet_r18w4_bccd.py"
exits = {"model.recipe.teacher_exits.fraction": 2 / 9}

seeds = (0, 1, 2)
metrics = ("voc07/mAP", "voc12/mAP", "coco/mAP")
rows = [
    dict(name="teacher", config="kd_mm::detection/bccd/retinanet_r18w40_bccd.py", seeds=[0]),
    dict(name="student", config=student),
    dict(name="kd", config=student, distiller="kd", teacher_row="teacher"),
    dict(name="mtkd_ssr", config=student, distiller="mtkd_ssr", teacher_row="teacher", cfg_options=exits),
    dict(
        name="mtkd_ssr_images",
        config=student,
        distiller="mtkd_ssr_images",
        teacher_row="teacher",
        cfg_options=exits,
    ),
    dict(
        name="mtkd_ssr_regions",
        config=student,
        distiller="mtkd_ssr_images",
        teacher_row="teacher",
        cfg_options={**exits, "model.recipe.exits.type": "kd_mm.RoIExit"},
    ),
    dict(
        name="pkd",
        config=student,
        distiller="pkd",
        teacher_row="teacher",
        cfg_options={"model.recipe.losses.pkd.stages": [1, 2, 3]},
    ),
]
