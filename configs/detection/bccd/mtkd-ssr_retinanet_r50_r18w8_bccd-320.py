_base_ = ["./retinanet_r18w8_bccd-320.py", "../../_base_/recipes/hooks.py"]

# The recipe detection/mtkd_ssr_images with exits that classify regions: nearly every image of blood cells holds every
# class, so which classes an image holds teaches next to nothing. The training of the teacher's exits is fitted to 205
# images.
mtkd_ssr = dict(
    exits=dict(type="kd_mm.RoIExit", norm="GN"),
    connectors=dict(type="kd_mm.ConvConnector", policy="always", act="auto"),
    teacher_exits=dict(
        mode="auto", loss="ce", fraction=2 / 9, lr=0.05, momentum=0.9, weight_decay=1e-4, milestones=[3 / 4]
    ),
    losses=dict(
        aux=dict(type="kd_mm.ExitTaskLoss", loss_weight=0.5),
        scd=dict(type="kd_mm.StageChannelLoss", loss_weight=3.0, grid=False),
        srd=dict(type="kd_mm.StageResponseLoss", loss_weight=0.5, temperature=1.0),
        review=dict(
            type="kd_mm.CrossStageReviewLoss",
            loss_weight=0.15,
            temperature=1.0,
            schedule=dict(type="kd_mm.LinearRamp", fraction=0.1),
        ),
    ),
)

model = dict(
    _delete_=True,
    type="kd_mm.Distiller",
    student={{_base_.model}},
    teacher=dict(
        config="kd_mm::detection/bccd/retinanet_r50_bccd-320.py", checkpoint="checkpoints/bccd/retinanet_r50.pth"
    ),
    recipe=mtkd_ssr,
)
default_hooks = {{_base_.kd_hooks}}
