"""Registries of kd_mm: children of mmengine's, scope ``kd_mm``.

Distillers, exits, connectors, losses and networks are all ``nn.Module`` and share :data:`MODELS`. ``TASKS``,
``SCHEDULES`` and ``PREPARATIONS`` hold plain objects that exist nowhere upstream.
"""

from mmengine.registry import (
    DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS,
)
from mmengine.registry import (
    DATASETS as MMENGINE_DATASETS,
)
from mmengine.registry import (
    HOOKS as MMENGINE_HOOKS,
)
from mmengine.registry import (
    METRICS as MMENGINE_METRICS,
)
from mmengine.registry import (
    MODELS as MMENGINE_MODELS,
)
from mmengine.registry import (
    OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS,
)
from mmengine.registry import (
    Registry,
)

MODELS = Registry("model", parent=MMENGINE_MODELS, scope="kd_mm", locations=["kd_mm.models", "kd_mm.distillers"])
DATASETS = Registry(
    "dataset", parent=MMENGINE_DATASETS, scope="kd_mm", locations=["kd_mm.datasets", "kd_mm.quickstart"]
)
DATA_SAMPLERS = Registry("data sampler", parent=MMENGINE_DATA_SAMPLERS, scope="kd_mm", locations=["kd_mm.datasets"])
HOOKS = Registry("hook", parent=MMENGINE_HOOKS, scope="kd_mm", locations=["kd_mm.hooks", "kd_mm.preparation"])
METRICS = Registry("metric", parent=MMENGINE_METRICS, scope="kd_mm", locations=["kd_mm.evaluation"])
TASKS = Registry("task", scope="kd_mm", locations=["kd_mm.tasks"])
PREPARATIONS = Registry("preparation", scope="kd_mm", locations=["kd_mm.preparation"])
SCHEDULES = Registry("schedule", scope="kd_mm", locations=["kd_mm.losses"])
OPTIM_WRAPPERS = Registry("optim_wrapper", parent=MMENGINE_OPTIM_WRAPPERS, scope="kd_mm", locations=["kd_mm.engine"])
