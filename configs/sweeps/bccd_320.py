# Blood cells on a GPU, 320 x 240: ResNet-50 to an eighth of ResNet-18's width.
# Run it with: python tools/compare.py configs/sweeps/bccd_320.py --jobs 12 --work-dir work_dirs/bccd-320
student = "kd_mm::detection/bccd/retinanet_r18w8_bccd-320.py"

seeds = (0, 1, 2)
metrics = ("voc07/mAP", "voc12/mAP", "coco/mAP")
rows = [
    dict(name="teacher", config="kd_mm::detection/bccd/retinanet_r50_bccd-320.py", seeds=[0]),
    dict(name="student", config=student),
    dict(
        name="mtkd_ssr",
        config="kd_mm::detection/bccd/mtkd-ssr_retinanet_r50_r18w8_bccd-320.py",
        teacher_row="teacher",
    ),
    dict(name="kd", config=student, distiller="kd", teacher_row="teacher"),
    dict(
        name="pkd",
        config=student,
        distiller="pkd",
        teacher_row="teacher",
        cfg_options={"model.recipe.losses.pkd.stages": [1, 2, 3]},
    ),
]
