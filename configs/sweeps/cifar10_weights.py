# How the weights of MTKD-SSR for classifiers were chosen: the pair of cifar10_efficientnet.py, on the validation split.
# Run it with: kd-mm compare configs/sweeps/cifar10_weights.py --work-dir work_dirs/cifar10_weights
_base_ = "./cifar10_efficientnet.py"

cfg_options = {"test_dataloader.dataset.split": "val"}
student = "kd_mm::classification/cifar10_mini/resnet18-quarter_1xb64_cifar10-mini.py"
losses = "model.recipe.losses"
former = {
    f"{losses}.scd.loss_weight": 6.0,
    f"{losses}.srd.loss_weight": 1.0,
    f"{losses}.review.loss_weight": 0.0,
}
stages = dict(
    student=[f"backbone.layer{number}" for number in (1, 2, 3, 4)],
    teacher=[f"backbone.timm_model.blocks.{number}" for number in (1, 2, 4, 6)],
)
weights = {
    "as shipped": {},
    "without review": {f"{losses}.review.loss_weight": 0.0},
    "SCD 6, SRD 1": former,
    "SCD 24, SRD 1": {**former, f"{losses}.scd.loss_weight": 24.0},
    "SCD 6, SRD 1, srd dkd": {**former, f"{losses}.srd.form": "dkd"},
    "SCD 6, srd standardized": {
        **former,
        f"{losses}.srd.form": "standardized",
        f"{losses}.srd.temperature": 2.0,
        f"{losses}.srd.loss_weight": 9.0,
    },
    "SCD 6, SRD 1, scd gaussian": {**former, f"{losses}.scd.descriptor": "gaussian"},
}
rows = [
    dict(name="teacher", config=student, seeds=[0], cfg_options={{_base_.finetuned}}),
    *(
        dict(
            name=name,
            config=student,
            distiller="mtkd_ssr",
            teacher_row="teacher",
            cfg_options={**chosen, "model.stages": stages},
        )
        for name, chosen in weights.items()
    ),
]
