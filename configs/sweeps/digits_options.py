# Options of MTKD-SSR on the digits of the quickstart, scored on the validation split.
# Run it with: kd-mm compare configs/sweeps/digits_options.py --work-dir work_dirs/digits_options
losses = "model.recipe.losses"
no_review = {f"{losses}.review.loss_weight": 0.0}
review = {f"{losses}.review.loss_weight": 1.0, f"{losses}.review.direction": "deeper_mean_teacher"}
# One change each; those of SRD and SCD without the review.
options = {
    "without review": no_review,
    "as shipped": {},
    "review of the deeper stages and the teacher": review,
    "the same, right and surer": {**review, f"{losses}.review.samples": "right_and_surer"},
    "the same, agreement": {**review, f"{losses}.review.samples": "agreement"},
    "srd dkd": {**no_review, f"{losses}.srd.form": "dkd"},
    "srd dist": {
        **no_review,
        f"{losses}.srd.form": "dist",
        f"{losses}.srd.temperature": 1.0,
        f"{losses}.srd.form_weights": [2.0, 2.0],
    },
    "srd standardized": {
        **no_review,
        f"{losses}.srd.form": "standardized",
        f"{losses}.srd.temperature": 2.0,
        f"{losses}.srd.loss_weight": 9.0,
    },
    "scd gaussian": {**no_review, f"{losses}.scd.descriptor": "gaussian"},
}

seeds = (0, 1, 2)
metrics = ("accuracy/top1",)
cfg_options = {"test_dataloader.dataset.split": "val", "train_cfg.val_interval": 60}
rows = [
    dict(name="teacher", config="kd_mm::quickstart/teacher_digits.py", seeds=[0]),
    *[
        dict(
            name=name,
            config="kd_mm::quickstart/student_digits.py",
            distiller="mtkd_ssr",
            teacher_row="teacher",
            cfg_options=chosen,
        )
        for name, chosen in options.items()
    ],
]
