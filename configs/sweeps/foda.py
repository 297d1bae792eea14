# Runway debris on a CPU, 128 px: a GFL on a ResNet-18 of an eighth of its width, its teacher three times as wide.
# Run it with: python tools/compare.py configs/sweeps/foda.py --jobs 2 --work-dir work_dirs/foda
student = dict(config="kd_mm::detection/foda/gfl_r18w8_foda.py")
recipes = ("kd", "pkd", "pkd+kd", "ld", "detection", "mgd", "cwd", "crosskd", "fgd")

seeds = (0, 1, 2)
metrics = ("voc07/mAP", "voc12/mAP", "coco/mAP")
rows = [
    dict(name="teacher", config="kd_mm::detection/foda/gfl_r18w24_foda.py", seeds=[0]),
    dict(name="student", **student),
    *(dict(name=recipe, distiller=recipe, teacher_row="teacher", **student) for recipe in recipes),
]
