# How the weights of MTKD-SSR for classifiers were chosen: CIFAR-100 on one CPU core, on the validation split.
# Run it with: kd-mm compare configs/sweeps/cifar100_weights.py --work-dir work_dirs/cifar100_weights
_base_ = "./cifar100_small.py"

cfg_options = {"test_dataloader.dataset.split": "val"}
network = "kd_mm::classification/cifar100_small/resnet8_1xb128_cifar100-small.py"
losses = "model.recipe.losses"
former = {f"{losses}.scd.loss_weight": 6.0, f"{losses}.srd.loss_weight": 1.0}
no_review = {f"{losses}.review.loss_weight": 0.0}
dkd = {f"{losses}.srd.form": "dkd"}
standardized = {
    f"{losses}.srd.form": "standardized",
    f"{losses}.srd.temperature": 2.0,
    f"{losses}.srd.loss_weight": 9.0,
}
review = {**former, f"{losses}.review.loss_weight": 1.0, f"{losses}.review.direction": "deeper_mean_teacher"}
weights = {
    "as shipped": {},
    "review 0.1": {f"{losses}.review.loss_weight": 0.1},
    "without review": no_review,
    "SCD 6, SRD 1": {**former, **no_review},
    "SCD 6, SRD 1, review 0.3": former,
    "SCD 6, SRD 1, review of the deeper stages and the teacher": review,
    "SCD 6, SRD 1, the same, right and surer": {**review, f"{losses}.review.samples": "right_and_surer"},
    "SCD 6, SRD 1, the same, agreement": {**review, f"{losses}.review.samples": "agreement"},
    "SCD 24, SRD 1": {**former, **no_review, f"{losses}.scd.loss_weight": 24.0},
    "SCD 6, SRD 1, srd dkd": {**former, **no_review, **dkd},
    "SCD 24, SRD 1, srd dkd": {**former, **no_review, **dkd, f"{losses}.scd.loss_weight": 24.0},
    "SCD 6, srd standardized": {**former, **no_review, **standardized},
    "SCD 6, SRD 1, scd gaussian": {**former, **no_review, f"{losses}.scd.descriptor": "gaussian"},
}
rows = [
    dict(
        name="teacher",
        config=network,
        seeds=[0],
        cfg_options={"model.backbone.depth": 14, "train_cfg.max_epochs": 30, "param_scheduler.T_max": 30},
    ),
    *(
        dict(name=name, config=network, distiller="mtkd_ssr", cfg_options=chosen, teacher_row="teacher")
        for name, chosen in weights.items()
    ),
]
