# How MTKD-SSR for detectors compares maps, on the validation splits of blood cells, runway debris and scenes; teachers
# were trained with their exits.
# Run it with: python tools/compare.py configs/sweeps/detection_maps.py --jobs 2 --work-dir work_dirs/detection_maps
losses, fading = "model.recipe.losses", dict(type="kd_mm.CosineDecay")
scd, cwd = f"{losses}.scd", f"{losses}.cwd"
halves = {f"{scd}.loss_weight": 3.0, f"{cwd}.loss_weight": 5.0}
by_level = {f"{scd}.stages": [2, 3], f"{cwd}.stages": [1], f"{cwd}.loss_weight": 10.0}
without_exits = {f"{losses}.{name}.loss_weight": 0 for name in ("aux", "srd", "review")}
options = {
    "scd 6, cwd 1": {},
    "scd 6, cwd 3": {f"{cwd}.loss_weight": 3.0},
    "scd 6, cwd 3, positions alike": {f"{scd}.object_share": 0, f"{cwd}.loss_weight": 3.0},
    "scd 6": {f"{cwd}.loss_weight": 0},
    "scd 3": {f"{scd}.loss_weight": 3.0, f"{cwd}.loss_weight": 0},
    "scd 6, fading": {f"{scd}.schedule": fading, f"{cwd}.loss_weight": 0},
    "scd 3, cwd 5": halves,
    "scd 3, cwd 5, fading": {**halves, f"{scd}.schedule": fading, f"{cwd}.schedule": fading},
    "cwd 10 on level 1, scd 6 on others": by_level,
    "cwd 10": {f"{scd}.loss_weight": 0, f"{cwd}.loss_weight": 10.0},
    "scd 6, cwd 3, review 10": {f"{losses}.review.loss_weight": 10.0, f"{cwd}.loss_weight": 3.0},
    "scd 6, cwd 3, without exits": {f"{cwd}.loss_weight": 3.0, **without_exits},
}
bccd, foda, scenes = "kd_mm::detection/bccd", "kd_mm::detection/foda", "kd_mm::quickstart"
listed, named = (
    {"test_dataloader.dataset.ann_file": "VOC2007/ImageSets/Main/val.txt"},
    {"test_dataloader.dataset.split": "val"},
)
pairs = {
    "bccd": (f"{bccd}/retinanet_r18w4_bccd.py", f"{bccd}/retinanet_r18w40_bccd.py", listed, dict(epochs=24)),
    "foda gfl": (f"{foda}/gfl_r18w8_foda.py", f"{foda}/gfl_r18w24_foda.py", listed, {}),
    "foda retinanet": (f"{foda}/retinanet_r18w8_foda.py", f"{foda}/retinanet_r18w24_foda.py", listed, {}),
    "scenes": (f"{scenes}/student_scenes.py", f"{scenes}/teacher_scenes.py", named, {}),
}

seeds = (0, 1, 2)
metrics = ("voc07/mAP", "coco/mAP")
rows = [
    row
    for data, (student, teacher, validation, length) in pairs.items()
    for row in (
        dict(name=f"{data}, student", config=student, cfg_options=validation, **length),
        dict(name=f"{data}, teacher", config=teacher, distiller="exits", seeds=[0], cfg_options=validation, **length),
        *(
            dict(
                name=f"{data}, {name}",
                config=student,
                distiller="mtkd_ssr",
                teacher_row=f"{data}, teacher",
                cfg_options={**chosen, **validation},
                **length,
            )
            for name, chosen in options.items()
        ),
    )
]
