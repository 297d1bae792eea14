"""Registries of kd_mm: children of mmengine's, scope ``kd_mm``. Their locations are imported at the first look-up.

Distillers, exits, connectors, losses and networks are all ``nn.Module`` and share :data:`MODELS`. ``TASKS``,
``PREPARATIONS`` and ``SCHEDULES`` hold plain objects that exist nowhere upstream.
"""

from mmengine import registry as engine
from mmengine.registry import Registry

MODELS = Registry(
    "model",
    parent=engine.MODELS,
    scope="kd_mm",
    locations=["kd_mm.models", "kd_mm.losses", "kd_mm.distillers"],
)
DATASETS = Registry("dataset", parent=engine.DATASETS, scope="kd_mm", locations=["kd_mm.datasets", "kd_mm.quickstart"])
DATA_SAMPLERS = Registry("data sampler", parent=engine.DATA_SAMPLERS, scope="kd_mm", locations=["kd_mm.datasets"])
TRANSFORMS = Registry("transform", parent=engine.TRANSFORMS, scope="kd_mm", locations=["kd_mm.datasets"])
HOOKS = Registry(
    "hook", parent=engine.HOOKS, scope="kd_mm", locations=["kd_mm.hooks", "kd_mm.preparation", "kd_mm.engine"]
)
METRICS = Registry("metric", parent=engine.METRICS, scope="kd_mm", locations=["kd_mm.evaluation"])
OPTIM_WRAPPERS = Registry("optim_wrapper", parent=engine.OPTIM_WRAPPERS, scope="kd_mm", locations=["kd_mm.engine"])
#: Empty: the engine warns where a part of a config ``kd_mm::path`` has no registry of its kind here.
PARAM_SCHEDULERS = Registry(
    "parameter scheduler", parent=engine.PARAM_SCHEDULERS, scope="kd_mm", locations=["kd_mm.registry"]
)
TASKS = Registry("task", scope="kd_mm", locations=["kd_mm.tasks"])
PREPARATIONS = Registry("preparation", scope="kd_mm", locations=["kd_mm.preparation"])
SCHEDULES = Registry("schedule", scope="kd_mm", locations=["kd_mm.losses"])
