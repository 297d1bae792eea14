# Options of MTKD-SSR for detectors on runway debris, on the validation split; see foda.py. Images of 128 px and a
# teacher of 12 epochs, as the choices were made; from review 1 on, options are those of the former setting.
# Run it with: python tools/compare.py configs/sweeps/foda_weights.py --jobs 2 --work-dir work_dirs/foda_weights
student = "kd_mm::detection/foda/gfl_r18w8_foda.py"
losses, exits = "model.recipe.losses", "model.recipe.teacher_exits"
former = {f"{losses}.scd.object_share": 0}
cells_of_32 = {**former, "model.recipe.exits.grid_stride": 32}
crosskd = {f"{losses}.own.loss_weight": 0, **cells_of_32}
options = {
    "mtkd_ssr": {},
    "mtkd_ssr, scd 2": {f"{losses}.scd.loss_weight": 2.0},
    "mtkd_ssr, positions alike": former,
    "mtkd_ssr, review 1": {**former, f"{losses}.review.loss_weight": 1.0},
    "mtkd_ssr, cells of 32 pixels": cells_of_32,
    "mtkd_ssr, cells of 32 pixels, scd 1": {**cells_of_32, f"{losses}.scd.loss_weight": 1.0},
    "mtkd_ssr, cells of 32 pixels, scd 2": {**cells_of_32, f"{losses}.scd.loss_weight": 2.0},
    "mtkd_ssr, cells of 32 pixels, scd 12": {**cells_of_32, f"{losses}.scd.loss_weight": 12.0},
    "mtkd_ssr, cells of 32 pixels, srd 3": {**cells_of_32, f"{losses}.srd.loss_weight": 3.0},
    "mtkd_ssr, cells of 32 pixels, own 3": {**cells_of_32, f"{losses}.own.loss_weight": 3.0},
    "mtkd_ssr, cells of 32 pixels, own by teacher": {**cells_of_32, f"{losses}.own.weighting": "teacher"},
    "mtkd_ssr, cells of 32 pixels, exits at 0.005": {**cells_of_32, f"{exits}.lr": 5e-3},
    "mtkd_ssr+crosskd": crosskd,
    "mtkd_ssr+crosskd, scd 2": {**crosskd, f"{losses}.scd.loss_weight": 2.0},
    "mtkd_ssr+crosskd, without scd": {**crosskd, f"{losses}.scd.loss_weight": 0.0},
    "mtkd_ssr_images": {},
}

seeds = (0, 1, 2)
metrics = ("voc07/mAP", "coco/mAP")
cfg_options = {
    "test_dataloader.dataset.ann_file": "VOC2007/ImageSets/Main/val.txt",
    "train_dataloader.dataset.pipeline.2.scale": (128, 128),
    "train_dataloader.dataset.pipeline.4.max_shift_px": 12,
    **{f"{part}_dataloader.dataset.pipeline.1.scale": (128, 128) for part in ("val", "test")},
}
rows = [
    dict(name="teacher", config="kd_mm::detection/foda/gfl_r18w24_foda.py", seeds=[0], epochs=12),
    *(
        dict(name=name, config=student, distiller=name.split(",")[0], cfg_options=chosen, teacher_row="teacher")
        for name, chosen in options.items()
    ),
]
