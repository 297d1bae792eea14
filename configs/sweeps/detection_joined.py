# MTKD-SSR and CrossKD for detectors, each and joined (recipe `detection`), on runway debris, blood cells and scenes; the
# teachers were trained with their exits.
# Run it with: python tools/compare.py configs/sweeps/detection_joined.py --jobs 2 --work-dir work_dirs/detection_joined
bccd, foda, scenes = "kd_mm::detection/bccd", "kd_mm::detection/foda", "kd_mm::quickstart"
pairs = {
    "gfl": (f"{foda}/gfl_r18w8_foda.py", f"{foda}/gfl_r18w24_foda.py", {}),
    "retinanet": (f"{foda}/retinanet_r18w8_foda.py", f"{foda}/retinanet_r18w24_foda.py", {}),
    "blood cells": (f"{bccd}/retinanet_r18w4_bccd.py", f"{bccd}/retinanet_r18w40_bccd.py", dict(epochs=24)),
    "scenes": (f"{scenes}/student_scenes.py", f"{scenes}/teacher_scenes.py", {}),
}

seeds = (0, 1, 2)
metrics = ("voc07/mAP", "voc12/mAP", "coco/mAP")
rows = [
    row
    for data, (student, teacher, length) in pairs.items()
    for row in (
        dict(name=f"{data}, student", config=student, **length),
        dict(name=f"{data}, teacher", config=teacher, distiller="exits", seeds=[0], **length),
        *(
            dict(name=f"{data}, {recipe}", config=student, distiller=recipe, teacher_row=f"{data}, teacher", **length)
            for recipe in ("mtkd_ssr", "crosskd", "detection")
        ),
    )
]
