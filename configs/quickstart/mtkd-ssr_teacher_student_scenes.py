_base_ = ["./student_scenes.py", "../_base_/recipes/hooks.py"]

# The recipe detection/mtkd_ssr, fitted to 400 small scenes: exits classify regions, because which digits are somewhere
# in a scene cannot be learnt from so few; they weigh less on a small student; and the detector's own logits are
# distilled, too.
mtkd_ssr = dict(
    exits=dict(type="kd_mm.RoIExit", norm="GN"),
    connectors=dict(type="kd_mm.ConvConnector", policy="always", act="auto"),
    teacher_exits=dict(
        mode="auto", loss="ce", fraction=1 / 3, lr=0.05, momentum=0.9, weight_decay=1e-4, milestones=[3 / 4]
    ),
    losses=dict(
        aux=dict(type="kd_mm.ExitTaskLoss", loss_weight=0.1),
        scd=dict(type="kd_mm.StageChannelLoss", loss_weight=3.0, grid=False),
        srd=dict(type="kd_mm.StageResponseLoss", loss_weight=0.5, temperature=1.0),
        review=dict(
            type="kd_mm.CrossStageReviewLoss",
            loss_weight=0.15,
            temperature=1.0,
            schedule=dict(type="kd_mm.LinearRamp", fraction=0.1),
        ),
        kd=dict(type="kd_mm.DetKDLoss", loss_weight=1.0, temperature=1.0),
    ),
)

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(config="kd_mm::quickstart/teacher_scenes.py", checkpoint="work_dirs/teacher_scenes/epoch_14.pth"),
    recipe=mtkd_ssr,
    task=dict(type="kd_mm.DetectionTask", extra_regions=4),
)
default_hooks = {{_base_.kd_hooks}}
