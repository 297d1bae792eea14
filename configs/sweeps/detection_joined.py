# MTKD-SSR and CrossKD for detectors, each and joined (recipe `detection`), on runway debris and scenes; teachers were
# trained with their exits.
# Run it with: python tools/compare.py configs/sweeps/detection_joined.py --jobs 2 --work-dir work_dirs/detection_joined
foda, scenes = "kd_mm::detection/foda", "kd_mm::quickstart"
pairs = {
    "gfl": (f"{foda}/gfl_r18w8_foda.py", f"{foda}/gfl_r18w24_foda.py"),
    "retinanet": (f"{foda}/retinanet_r18w8_foda.py", f"{foda}/retinanet_r18w24_foda.py"),
    "scenes": (f"{scenes}/student_scenes.py", f"{scenes}/teacher_scenes.py"),
}

seeds = (0, 1, 2)
metrics = ("voc07/mAP", "voc12/mAP", "coco/mAP")
rows = [
    row
    for data, (student, teacher) in pairs.items()
    for row in (
        dict(name=f"{data}, student", config=student),
        dict(name=f"{data}, teacher", config=teacher, distiller="exits", seeds=[0]),
        *(
            dict(name=f"{data}, {recipe}", config=student, distiller=recipe, teacher_row=f"{data}, teacher")
            for recipe in ("mtkd_ssr", "crosskd", "detection")
        ),
    )
]
