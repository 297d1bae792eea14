"""Import hooks: stand-ins before `mmcv.ops`, fixes after the modules that need them, a clean standard output."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

#: Functions of :mod:`kd_mm.ops.upstream_fixes` by the module that they patch.
FIXES = {
    "mmdet.registry": "patch_task_utils",
    "mmdet.models.dense_heads.ssd_head": "patch_ssd_head",
    "mmdet.models.backbones.trident_resnet": "patch_trident_conv",
    "mmdet.models.task_modules.assigners.point_assigner": "patch_point_assigner",
    "mmdet.evaluation.metrics.coco_metric": "patch_coco_metric",
    "mmpretrain.utils.dependency": "patch_multimodal",
    "mmpretrain.datasets.custom": "patch_class_folders",
    "mmengine.runner.runner": "patch_collate",
    "mmengine.fileio.parse": "patch_lists",
}
#: Modules that print while they are imported.
NOISY = {"mmdet.datasets", "mmpretrain.datasets"}
#: A message that both mean for their debug log, and print where the optional package is missing.
_DEBUG_MESSAGE = "Could not import OneDL"

_callbacks: dict[str, Callable[[ModuleType], object]] = {}


def after_import(name: str, callback: Callable[[ModuleType], object]) -> None:
    """Call a function with a module: now where it is imported already, else right after its import."""
    _callbacks[name] = callback
    if name in sys.modules:
        callback(sys.modules[name])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send what is printed to standard error, without upstream's debug message: tools write JSON to the other."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        lines = printed.getvalue().splitlines(keepends=True)
        sys.stderr.writelines(line for line in lines if not line.startswith(_DEBUG_MESSAGE))


class _Finder(importlib.abc.MetaPathFinder):
    """Wrap the loading of single modules; importing all of mmdet's models in advance would take seconds."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name == "mmcv.ops":
            importlib.import_module("kd_mm.ops.mmcv_ext").install()
        if name not in _callbacks and name not in NOISY:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with quiet() if name in NOISY else contextlib.nullcontext():
                execute(module)
            if name in _callbacks:
                _callbacks[name](module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _fix(module: ModuleType) -> None:
    fixes = importlib.import_module("kd_mm.ops.upstream_fixes")
    vars(fixes)[FIXES[module.__name__]](module)


def install_hooks() -> None:
    """Fix what is imported already, and the rest when it is."""
    # mmdet says so at its import, whatever metric is used; a run with the metric that needs the package is refused.
    warnings.filterwarnings("ignore", "faster_coco_eval is not installed", UserWarning)
    for name in FIXES:
        after_import(name, _fix)
    sys.meta_path.insert(0, _Finder())
